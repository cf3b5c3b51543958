// One prompt to a role or a model: who answered, after whom, and how fast.

import { hook, make, show, tell, write } from "../mh/dom.js";
import { announce } from "../mh/form.js";
import { milliseconds, NOTHING } from "../mh/format.js";
import { LiveSocket } from "../mh/socket.js";

const REASONS = { length: "Cut at the length limit.", cancelled: "Stopped." };
const time = (value) => (value === null || value === undefined ? NOTHING : milliseconds(value));

export class Trial {
  constructor(dialog) {
    this.dialog = dialog;
    this.form = hook(dialog, "trial-form");
    this.prompt = hook(dialog, "trial-prompt");
    this.number = 0;
    this.running = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.send();
      }
    });
    hook(dialog, "trial-stop").addEventListener("click", () => this.stop());
    hook(dialog, "trial-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.stop());
  }

  /** `kind` is "role" or "model"; `chain` are its links: id and availability. */
  open(kind, name, chain, isOwn) {
    Object.assign(this, { kind, name, chain });
    write(hook(this.dialog, "trial-name"), name);
    this.clear();
    write(this.part("state"), isOwn ? `For you your own ${name} answers.` : "");
    this.renderChain(null);
    this.socket ??= new LiveSocket("/ws/chat/", {
      onframe: (frame) => this.received(frame),
      onstate: (state) => this.connection(state),
    });
    this.dialog.showModal();
    this.prompt.focus();
    this.prompt.select();
  }

  part(name) {
    return hook(this.dialog, `trial-${name}`);
  }

  clear() {
    for (const name of ["answer", "reasoning"]) {
      this.part(name).replaceChildren();
    }
    for (const name of ["answer", "fold", "facts"]) {
      show(this.part(name), false);
    }
    tell(this.part("error"), "");
    write(this.part("state"), "");
  }

  connection(state) {
    if (state !== "open" && this.running) {
      this.fail("The connection was lost, and with it the rest of the answer.");
    }
    if (state === "refused") {
      tell(this.part("error"), "You may not chat here.");
    }
  }

  send() {
    const content = this.prompt.value.trim();
    if (!content || this.running) {
      this.prompt.focus();
      return;
    }
    this.number += 1;
    this.id = `trial-${this.number}`;
    this.clear();
    const messages = [{ role: "user", content }];
    if (!this.socket.send({ type: "chat", id: this.id, [this.kind]: this.name, messages })) {
      this.fail("Connecting… try again in a moment.");
      return;
    }
    this.busy(true);
    write(this.part("state"), "Sent.");
  }

  busy(running) {
    this.running = running;
    const [send, stop] = [this.part("send"), this.part("stop")];
    show(stop, running, () => send);
    show(send, !running, () => stop);
    if (!running && this.dialog.open) {
      send.focus();
    }
  }

  stop() {
    if (this.running) {
      this.socket.send({ type: "cancel", id: this.id });
    }
  }

  received(frame) {
    if (frame.id !== this.id || !this.running) {
      return;
    }
    const handlers = {
      queued: () => this.queued(frame),
      start: () => this.started(frame),
      token: () => this.token("answer", frame.content),
      reasoning: () => this.token("reasoning", frame.content),
      tool_call: () => this.token("answer", frame.tool_call.arguments),
      done: () => this.done(frame),
      error: () => this.fail(frame.error?.message ?? "The answer broke off."),
    };
    handlers[frame.type]?.();
  }

  queued({ position, eta_seconds: eta, reason }) {
    const wait = eta ? `, about ${Math.round(eta)} s` : "";
    write(this.part("state"), `${reason || "Waiting."} (place ${position}${wait})`);
  }

  started(frame) {
    this.who = frame;
    write(this.part("state"), "Answering…");
    this.renderChain(frame);
  }

  token(name, text) {
    show(this.part(name === "reasoning" ? "fold" : "answer"), true);
    this.part(name).append(text);
  }

  done({ finish_reason: reason, usage, timings }) {
    const said = REASONS[reason] ?? "Done.";
    write(this.part("state"), said);
    this.facts(usage, timings);
    announce(`${said} ${this.part("answer").textContent}`);
    this.busy(false);
  }

  facts(usage, timings) {
    const { provider, backend, model } = this.who ?? {};
    const tokens = usage?.completion_tokens;
    const span = timings.total_ms - timings.ttft_ms;
    const facts = {
      who: this.who ? `${model || "its model"} on ${backend ?? provider}` : NOTHING,
      queued: time(timings.queued_ms),
      first: time(timings.ttft_ms),
      total: time(timings.total_ms),
      tokens: usage ? `${usage.prompt_tokens} in, ${tokens} out` : NOTHING,
      speed: tokens > 1 && span > 0 && timings.ttft_ms ? `${(((tokens - 1) * 1000) / span).toFixed(1)} tokens/s` : NOTHING,
    };
    for (const [name, value] of Object.entries(facts)) {
      write(this.dialog.querySelector(`[data-trial-fact=${name}]`), value);
    }
    show(this.part("facts"), true);
  }

  fail(message) {
    write(this.part("state"), "");
    tell(this.part("error"), message);
    this.busy(false);
  }

  /** The chain with what became of each: asked and failed, known to be off, answering, not needed. */
  renderChain(start) {
    this.who = start;
    const list = this.part("chain");
    const failed = new Map((start?.tried ?? []).map((one) => [one.entry, one.message]));
    const place = start ? this.chain.findIndex(({ id }) => id === start.entry) : -1;
    list.replaceChildren(...this.chain.map((link, at) => this.chainRow(link, this.fate(link, at, place, failed))));
    show(list, this.chain.length > 0);
  }

  fate({ id, availability }, at, place, failed) {
    if (failed.has(id)) {
      return ["bad", "failed", failed.get(id)];
    }
    if (place === at) {
      return ["good", "answers", ""];
    }
    if (place > at) {
      return ["warn", "passed over", availability.message || "Not available."];
    }
    return place < 0 ? [null, availability.state, availability.message] : ["", "not needed", ""];
  }

  chainRow({ id }, [tone, word, why]) {
    const tag = make("span", { class: "mh-tag", ...(tone === null ? {} : { "data-tone": tone }) }, word);
    return make("li", { "data-trial-link": id }, make("span", { class: "mh-strong" }, id), tag, make("span", { class: "mh-subtle" }, why));
  }
}
