// The header of every page: the active backend, its state, what is done to it, and whether this is still true.

import { hook, show, write } from "./dom.js";
import { duration, secondsSince } from "./format.js";
import { header, live } from "./live.js";

const root = document.getElementById("mh-header");
const announcer = document.getElementById("mh-announce");
const OPEN = new Set(["queued", "running"]);

let current = null;

/** An installed engine's state; else whether one is being installed. As backends/cards.py has it. */
function stateOf(entry) {
  if (entry.installing !== null && entry.installing !== undefined) {
    return "installing";
  }
  return !entry.installed && !entry.running ? "missing" : entry.state;
}

function renderStatus(status) {
  const entry = status.available[status.active.backend];
  current = status.operation && OPEN.has(status.operation.state) ? status.operation : null;
  const state = entry ? stateOf(entry) : "stopped";
  root.dataset.state = state;
  write(hook(root, "header-title"), entry?.title ?? "");
  write(hook(root, "header-word"), entry ? (header.stateWords[state] ?? state) : "No engine");
  renderMore();
}

function renderMore() {
  const { status } = live;
  if (current) {
    const title = status.available[current.backend]?.title ?? current.backend;
    const [present] = header.operationWords[current.kind] ?? [current.kind];
    write(hook(root, "header-more"), `${present} ${title} · ${Math.round(current.progress * 100)} %`);
  } else {
    write(hook(root, "header-more"), status.active.model ?? "");
  }
}

function renderOperation(operation) {
  if (OPEN.has(operation.state)) {
    current = operation;
  } else if (current?.id === operation.id) {
    current = null;
  }
  renderMore();
}

const STALE_WORDS = {
  "signed-out": "Signed out: reload to sign in",
  refused: "You may not see the status",
};

let before = "waiting";
let begun = false;

function renderConnection() {
  const { connection } = live;
  root.dataset.live = connection === "open" ? "on" : "stale";
  const stale = hook(root, "header-stale");
  show(stale, connection !== "open" && (begun || connection !== "waiting" || secondsSince(new Date(live.heardAt)) > 2));
  const ago = duration(secondsSince(new Date(live.heardAt)));
  write(stale, STALE_WORDS[connection] ?? `Reconnecting… last update ${ago} ago`);
  if (connection !== before && begun) {
    write(announcer, connection === "waiting" ? "Connection lost, reconnecting." : (STALE_WORDS[connection] ?? "Live again."));
  }
  begun = begun || connection === "open";
  before = connection;
}

if (live && root) {
  live.on("status", renderStatus);
  live.on("operation", renderOperation);
  live.on("connection", renderConnection);
  setInterval(() => live.connection !== "open" && renderConnection(), 1000);
}
