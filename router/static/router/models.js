// The Models page: downloads move as they are told, and the lists are asked for again when something has changed.

import { hook, write } from "../mh/dom.js";
import { duration } from "../mh/format.js";
import { live } from "../mh/live.js";
import { refresher } from "../mh/refresh.js";

const OPEN = new Set(["queued", "running"]);
/** Kinds of operations that this page shows while they go on. */
const OURS = new Set(["pull", "delete"]);
const refresh = refresher();

live.on("operation", (operation) => {
  const row = document.querySelector(`[data-download="${CSS.escape(operation.id)}"]`);
  const isOpen = OPEN.has(operation.state);
  if (!isOpen || (!row && OURS.has(operation.kind))) {
    refresh();
  }
  if (!row || !isOpen) {
    return;
  }
  row.querySelector("progress").value = operation.progress;
  const message = operation.steps.at(-1)?.message ?? "";
  const left = operation.eta_seconds ? ` · about ${duration(operation.eta_seconds)} left` : "";
  write(hook(row, "download-message"), `${message}${left}`);
});

live.on("change", refresh);
