// The LLM Backend page: the server's HTML, kept true by /ws/status/. Nothing is polled.

import { Card } from "./card.js";
import { Chat } from "./chat.js";
import { Configuration } from "./configuration.js";
import { watchCopies, watchStartup } from "./startup.js";
import { call } from "../mh/api.js";
import { hook, make, show, write } from "../mh/dom.js";
import { bytes } from "../mh/format.js";
import { live } from "../mh/live.js";

const config = JSON.parse(document.getElementById("mh-config").textContent);
const announcer = document.getElementById("mh-announce");
const chatRoot = document.getElementById("mh-chat");

const cards = new Map();
for (const root of document.querySelectorAll("section[data-backend]")) {
  const card = new Card(root, config, { announce: (text) => write(announcer, text) });
  cards.set(card.name, card);
}
const chat = chatRoot && new Chat(chatRoot, config);
const optionsRoot = hook(document, "configuration");
const options =
  optionsRoot && new Configuration(optionsRoot, config.configuration, { announce: (text) => write(announcer, text) });
watchCopies(document);
watchStartup(hook(document, "startup"));

function renderStatus(status) {
  const entries = Object.entries(status.available);
  for (const [name, entry] of entries) {
    const othersServe = entries.some(([other, { running }]) => other !== name && running);
    cards.get(name)?.render(entry, status.active.backend === name, othersServe);
  }
  if (status.operation) {
    renderOperation(status.operation);
  }
  show(document.getElementById("mh-worker"), !status.worker);
  renderGpus(status.gpus);
  chat?.render(status);
  options?.render(status);
}

function renderOperation(operation) {
  cards.get(operation.backend)?.renderOperation(operation);
  options?.renderOperation(operation);
}

function renderGpus(gpus) {
  const section = hook(document, "gpus");
  hook(section, "gpu-list").replaceChildren(...gpus.map(gpuLine));
  show(section, gpus.length > 0);
  for (const card of cards.values()) {
    card.renderGpus(gpus);
  }
}

function gpuLine(gpu) {
  const bar = make("progress", { class: "mh-progress", "aria-label": `Memory of GPU ${gpu.index}` });
  if (gpu.memory_total && gpu.memory_used !== null) {
    bar.max = gpu.memory_total;
    bar.value = gpu.memory_used;
  } else {
    show(bar, false); // the driver does not say
  }
  const busy = gpu.utilization === null || gpu.utilization === undefined ? "" : ` · ${gpu.utilization} % busy`;
  return make(
    "li",
    { class: "mh-gpu" },
    make("span", { class: "mh-gpu__name" }, `${gpu.index} · ${gpu.name ?? "does not answer"}`),
    bar,
    make("span", { class: "mh-subtle" }, `${bytes(gpu.memory_used)} / ${bytes(gpu.memory_total)}${busy}`),
  );
}

/** What the lines of tokens per second begin with. */
async function beginLines() {
  const since = new Date(Date.now() - 300_000).toISOString();
  const { series } = await call("GET", `/api/llm-backend/samples?since=${encodeURIComponent(since)}`);
  for (const { kind, id, measures } of series) {
    if (kind === "backend" && measures.tokens_per_second) {
      cards.get(id)?.sampled(measures.tokens_per_second);
    }
  }
}

for (const operation of Object.values(config.operations)) {
  renderOperation(operation);
}
live.on("status", renderStatus);
live.on("operation", renderOperation);
live.on("gpu", renderGpus);
live.on("sample", ({ series }) => {
  for (const { kind, id, values } of series) {
    if (kind === "backend" && values.tokens_per_second !== undefined) {
      cards.get(id)?.sampled([values.tokens_per_second]);
    }
  }
});
beginLines().catch(() => {}); // the lines begin with what comes
// The page's own clock: uptime and time left. Asks the server nothing.
setInterval(() => {
  for (const card of cards.values()) {
    card.tick();
  }
  chat?.tick();
}, 1000);
