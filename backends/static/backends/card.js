// One backend: its state, facts, buttons, operation and log.

import { call } from "../mh/api.js";
import { Sparkline } from "../mh/chart.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { bytes, duration, NOTHING, secondsSince } from "../mh/format.js";
import { OperationView } from "./operation.js";

/** The memory of a backend, and of the launcher that waits for its next start. */
function memory({ memory: own, standby }) {
  const parts = [];
  if (own) {
    parts.push(bytes(own));
  }
  if (standby) {
    parts.push(`${bytes(standby.memory)} on standby`);
  }
  return parts.join(" + ") || NOTHING;
}

/** Points of the line of tokens per second: five minutes. */
const RATES = 60;

function port(endpoint) {
  return endpoint ? new URL(endpoint).port || NOTHING : NOTHING;
}

function inFlight({ in_flight: count, requests_waiting: waiting }) {
  return waiting ? `${count ?? 0} + ${waiting} waiting` : String(count ?? 0);
}

function tokens(rate) {
  return rate === null || rate === undefined ? NOTHING : rate.toFixed(1);
}

export class Card {
  constructor(root, config, { announce }) {
    this.root = root;
    this.name = root.dataset.backend;
    this.config = config;
    this.announce = announce;
    this.title = root.querySelector("h2").textContent;
    this.entry = null;
    this.operation = new OperationView(hook(root, "operation"), config, this.title);
    for (const form of root.querySelectorAll("form[data-action]")) {
      form.addEventListener("submit", (event) => this.act(event, form));
    }
    hook(root, "install")?.addEventListener("submit", (event) => this.install(event));
    hook(root, "cancel")?.addEventListener("submit", (event) => this.cancel(event));
    this.watchLog(hook(root, "log"));
  }

  /** `entry` is this backend's part of the status payload. */
  render(entry, active, othersServe) {
    const state = this.stateOf(entry);
    const before = this.root.dataset.state;
    this.entry = entry;
    this.root.dataset.state = state;
    show(hook(this.root, "active"), active);
    write(hook(this.root, "word"), this.config.stateWords[state] ?? state);
    this.renderNotice(entry, state);
    this.renderButtons(state, othersServe);
    this.tick();
    if (before !== state) {
      this.announce(`${this.title}: ${this.config.stateWords[state] ?? state}`);
      tell(hook(this.root, "error"), "");
      if (state === "failed" && this.config.mayOperate[this.name]) {
        this.fetchDetail();
      }
    }
  }

  /** The engine's own line is for its operators and not in the status: the server writes it on the page. */
  async fetchDetail() {
    const response = await fetch(window.location.pathname, { credentials: "same-origin" }).catch(() => null);
    if (!response?.ok) {
      return;
    }
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const card = page.querySelector(`section[data-backend="${CSS.escape(this.name)}"]`);
    if (card && this.root.dataset.state === "failed") {
      tell(hook(this.root, "detail"), hook(card, "detail")?.textContent);
      const [link, fresh] = [this.root, card].map((root) => hook(root, "log-link")?.querySelector("a"));
      link?.setAttribute("href", fresh?.getAttribute("href") ?? link.getAttribute("href"));
    }
  }

  renderOperation(operation) {
    this.operation.render(operation);
  }

  stateOf(entry) {
    if (entry.installing !== null && entry.installing !== undefined) {
      return "installing";
    }
    return !entry.installed && !entry.running ? "missing" : entry.state;
  }

  renderNotice(entry, state) {
    const box = hook(this.root, "notice");
    const absent = state === "missing" || state === "installing";
    const wrong = state === "failed" || state === "degraded";
    const text = absent ? entry.reason : wrong ? entry.failure || entry.reason : "";
    box.classList.toggle("mh-notice--error", state === "failed");
    write(hook(box, "notice-text"), text);
    show(box, Boolean(text));
    this.operation.renderError(text);
    show(hook(this.root, "missing"), state === "missing");
    show(hook(box, "log-link"), state === "failed");
    const bar = hook(box, "installing");
    show(bar, state === "installing");
    bar.value = entry.installing ?? 0;
    if (state !== "failed") {
      tell(hook(box, "detail"), "");
    }
  }

  /** Buttons keep their places: what a second click lands on must be what the first one meant. */
  renderButtons(state, othersServe) {
    for (const form of this.root.querySelectorAll("form[data-action]")) {
      const button = form.querySelector("button");
      const { action } = form.dataset;
      const sensible = action !== "switch" || othersServe;
      const wanted = sensible && this.config.actions[action].includes(state);
      const focused = button === document.activeElement;
      button.disabled = !wanted;
      if (focused && !wanted) {
        this.operation.focus();
      }
      if (action === "switch") {
        show(form, wanted);
      }
    }
  }

  /** Once a second, and after each frame. */
  tick() {
    const { entry } = this;
    if (!entry) {
      return;
    }
    const up = entry.since && this.config.uptimeStates.includes(entry.state);
    this.fact("model", entry.model || NOTHING);
    this.fact("port", port(entry.endpoint));
    this.fact("version", entry.version || NOTHING);
    this.fact("in_flight", inFlight(entry));
    this.fact("tokens", tokens(entry.tokens_per_second));
    this.fact("memory", memory(entry));
    this.fact("uptime", up ? duration(secondsSince(entry.since)) : NOTHING);
    this.operation.tick();
  }

  fact(key, text) {
    write(this.root.querySelector(`[data-fact="${key}"]`), text);
  }

  /** Tokens per second of late, oldest first: a line, once there were any. */
  sampled(rates) {
    this.rates = [...(this.rates ?? []), ...rates].slice(-RATES);
    if (this.rates.some(Boolean)) {
      const place = hook(this.root, "spark");
      show(place, true);
      this.spark ??= new Sparkline(place, { label: `Tokens per second of ${this.title}`, length: RATES });
      this.spark.fill(this.rates);
    }
  }

  /** What it holds of each GPU. */
  renderGpus(gpus) {
    const list = hook(this.root, "held");
    const mine = gpus.filter(({ processes }) => processes?.some(({ backend }) => backend === this.name));
    list.replaceChildren(...mine.map((gpu) => this.held(gpu)));
    show(list, mine.length > 0);
  }

  held({ index, memory_total: total, processes }) {
    const amounts = processes.filter(({ backend }) => backend === this.name).map(({ memory: amount }) => amount);
    const held = amounts.includes(null) ? null : amounts.reduce((sum, amount) => sum + amount, 0);
    const label = `Memory that ${this.title} holds of GPU ${index}`;
    const bar = make("progress", { class: "mh-progress", "aria-label": label });
    show(bar, held !== null && Boolean(total));
    if (held !== null && total) {
      bar.max = total;
      bar.value = held;
    }
    return make(
      "li",
      { class: "mh-held__gpu" },
      make("span", {}, `GPU ${index}`),
      bar,
      make("span", { class: "mh-subtle" }, `${bytes(held)} of ${bytes(total)}`),
    );
  }

  async act(event, form) {
    event.preventDefault();
    await this.press(form.querySelector("button"), async () => {
      const { action } = form.dataset;
      const asked =
        action === "switch"
          ? call("POST", "/api/llm-backend/switch", { backend: this.name })
          : call("POST", `/api/llm-backend/${this.name}/${action}`);
      this.renderOperation(await asked);
    });
  }

  async install(event) {
    event.preventDefault();
    await this.press(event.target.querySelector("button"), async () => {
      this.renderOperation(await call("POST", `/api/llm-backend/${this.name}/install`));
    });
  }

  async cancel(event) {
    event.preventDefault();
    const { id } = this.operation.operation ?? { id: this.operation.root.dataset.operation };
    await this.press(event.target.querySelector("button"), async () => {
      this.renderOperation(await call("POST", `/api/llm-backend/operations/${id}/cancel`));
    });
  }

  /** Run what a button does; it is busy meanwhile, and what goes wrong is said on the card. */
  async press(button, run) {
    if (button.getAttribute("aria-busy") === "true") {
      return;
    }
    const problem = hook(this.root, "error");
    tell(problem, "");
    button.setAttribute("aria-busy", "true");
    try {
      await run();
    } catch (error) {
      tell(problem, error.message);
    } finally {
      button.removeAttribute("aria-busy");
    }
  }

  watchLog(fold) {
    if (!fold) {
      return;
    }
    const load = () => this.loadLog(fold);
    write(hook(fold, "log-load"), "Refresh");
    fold.addEventListener("toggle", () => fold.open && load());
    hook(fold, "log-load").addEventListener("click", (event) => {
      event.preventDefault();
      load();
    });
  }

  async loadLog(fold) {
    const note = hook(fold, "log-note");
    const text = hook(fold, "log-text");
    write(note, "Loading…");
    try {
      const { lines } = await call("GET", `/api/llm-backend/${this.name}/logs?lines=${this.config.logLines}`);
      write(text, lines.join("\n"));
      text.scrollTop = text.scrollHeight;
      write(note, lines.length ? `last ${lines.length} lines` : "The log is empty.");
    } catch (error) {
      write(note, error.message);
    }
  }
}
