// One answer of a model on the page, growing while it arrives: what it thinks, says and calls, and what it took.

import { make, show, tell, write } from "./dom.js";
import { duration, milliseconds } from "./format.js";
import { MarkdownView } from "./markdown.js";
import { paintSoon } from "./painter.js";

const REASONS = { length: "cut at the length limit", tool_calls: "waits for its tools", content_filter: "held back by a filter" };
const LOST = "The connection was lost, and with it the rest of this answer.";

/** What an answer is apart from the page: it can be kept as JSON. */
export function newRecord() {
  return {
    role: "assistant",
    /** running, done, stopped, cut (what came is not the whole) or failed (nothing came). */
    state: "running",
    text: "",
    thoughts: "",
    thoughtMs: 0,
    tools: [],
    from: null,
    done: null,
    error: null,
  };
}

const tokensOf = (count) => `${count} token${count === 1 ? "" : "s"}`;

/** "7 tokens · first after 180 ms · 24.0 tokens/s · 0.5 s in all · prompt of 12 tokens" */
export function usageLine({ usage, timings, finish_reason: reason }) {
  const tokens = usage?.completion_tokens;
  const { ttft_ms: first, total_ms: total, queued_ms: queued } = timings ?? {};
  const parts = [
    tokens !== undefined && tokens !== null && tokensOf(tokens),
    first && `first after ${milliseconds(first)}`,
    tokens > 1 && total > first && `${(((tokens - 1) * 1000) / (total - first)).toFixed(1)} tokens/s`,
    total && `${milliseconds(total)} in all`,
    queued >= 500 && `${milliseconds(queued)} of it waiting`,
    usage?.prompt_tokens && `prompt of ${tokensOf(usage.prompt_tokens)}`,
    reason !== "stop" && (REASONS[reason] ?? reason),
  ];
  return parts.filter(Boolean).join(" · ");
}

const pretty = (text) => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
};

export class Answer {
  /**
   * `record`: what it is so far. `onpaint()` is called when it has grown on the page; `hint(error)` may say what
   * to do about an error, as text or elements.
   */
  constructor(record = newRecord(), { onpaint = () => {}, hint = () => "" } = {}) {
    this.record = record;
    this.onpaint = onpaint;
    this.hint = hint;
    this.notBefore = 0;
    this.thinkingSince = 0;
    this.queuedUntil = 0;
    this.build();
    this.restore();
  }

  build() {
    this.text = make("div", { class: "mh-message__text mh-markdown" });
    this.view = new MarkdownView(this.text);
    this.thinking = make("span", {}, "Thinking…");
    this.thoughts = make("div", { class: "mh-fold__body mh-message__thoughts" });
    this.fold = make("details", { class: "mh-fold" }, make("summary", {}, this.thinking), this.thoughts);
    this.tools = make("div", { class: "mh-message__tools" });
    this.problem = make("p", { class: "mh-message__error" });
    this.from = make("span", { class: "mh-message__from", "data-chat-from": "" });
    this.note = make("span", { "data-chat-usage": "" });
    this.actions = make("span", { class: "mh-message__actions" });
    this.foot = make("p", { class: "mh-message__foot mh-subtle" }, this.from, this.note, this.actions);
    const spoken = make("span", { class: "mh-hidden" }, "Answer: ");
    this.element = make(
      "li",
      { class: "mh-message", "data-role": "assistant" },
      ...[spoken, this.fold, this.text, this.tools, this.problem, this.foot],
    );
    this.fold.hidden = this.problem.hidden = true;
  }

  restore() {
    const { record } = this;
    this.view.add(record.text);
    this.view.finish();
    this.thoughts.append(record.thoughts);
    show(this.fold, Boolean(record.thoughts));
    if (record.state === "running") {
      this.element.setAttribute("aria-busy", "true");
      write(this.note, "Waiting…");
    } else {
      this.drawEnd();
    }
    this.drawTools();
    this.drawFrom();
  }

  get isRunning() {
    return this.record.state === "running";
  }

  /** Take in a frame of `/ws/chat/`, or `{type: "lost"}`. */
  feed(frame) {
    const { record } = this;
    switch (frame.type) {
      case "queued":
        this.queued(frame);
        break;
      case "start":
        record.from = frame;
        this.queuedUntil = 0;
        this.drawFrom();
        write(this.note, "Answering…");
        break;
      case "token":
        this.thoughtEnds();
        record.text += frame.content;
        this.view.add(frame.content);
        paintSoon(this);
        break;
      case "reasoning":
        this.think(frame.content);
        break;
      case "tool_call":
        this.thoughtEnds();
        this.called(frame.tool_call);
        break;
      case "done":
        record.done = { usage: frame.usage, timings: frame.timings, finish_reason: frame.finish_reason };
        this.end("done");
        break;
      case "error":
        this.fail(frame.error ?? { message: "The answer broke off." });
        break;
      case "lost":
        this.fail({ message: LOST, code: "connection_lost" });
        break;
      default:
        break;
    }
  }

  queued({ position, eta_seconds: eta, reason }) {
    this.waiting = `${reason || "Waiting."} Place ${position} in the queue`;
    this.queuedUntil = eta ? Date.now() + eta * 1000 : 0;
    this.tick();
  }

  /** Once a second while it runs: time left, time thought. */
  tick() {
    if (this.waiting && !this.record.from) {
      const left = Math.round((this.queuedUntil - Date.now()) / 1000);
      const when = this.queuedUntil ? (left > 0 ? `, about ${duration(left)}` : ", any moment") : "";
      write(this.note, `${this.waiting}${when}.`);
    }
    if (this.thinkingSince) {
      write(this.thinking, `Thinking… ${duration((performance.now() - this.thinkingSince) / 1000)}`);
    }
  }

  think(text) {
    this.thinkingSince ||= performance.now();
    this.record.thoughts += text;
    this.thoughts.append(text);
    show(this.fold, true);
    paintSoon(this);
  }

  thoughtEnds() {
    if (this.thinkingSince) {
      this.record.thoughtMs += performance.now() - this.thinkingSince;
      this.thinkingSince = 0;
      this.drawThought();
    }
  }

  drawThought() {
    const seconds = this.record.thoughtMs / 1000;
    write(this.thinking, seconds >= 1 ? `Thought for ${duration(seconds)}` : "Thought for a moment");
  }

  called({ index, id, name, arguments: piece }) {
    const call = (this.record.tools[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name ||= name ?? "";
    call.arguments += piece;
    this.drawTools();
    this.onpaint();
  }

  drawTools() {
    const calls = this.record.tools.filter(Boolean);
    this.tools.replaceChildren(
      ...calls.map((call) =>
        make(
          "div",
          { class: "mh-call" },
          make("p", { class: "mh-call__name" }, "Calls ", make("code", {}, call.name || "…")),
          make("pre", { class: "mh-call__arguments", tabindex: "0" }, pretty(call.arguments)),
        ),
      ),
    );
  }

  drawFrom() {
    const { from } = this.record;
    if (from) {
      const where = from.backend || from.provider;
      write(this.from, `${from.model}${where ? ` on ${where}` : ""}`);
    }
  }

  /** Called once a frame by the painter. What takes long to draw is drawn less often. */
  paint(now) {
    if (now < this.notBefore && this.isRunning) {
      return false;
    }
    const begin = performance.now();
    if (this.isRunning) {
      this.view.draw();
    }
    const cost = performance.now() - begin;
    this.notBefore = now + (cost > 4 ? cost * 4 : 0);
    this.onpaint();
    return true;
  }

  fail(error) {
    const { record } = this;
    record.error = error;
    this.end(record.text || record.tools.length ? "cut" : "failed");
  }

  /** The person stopped it. */
  stop() {
    this.end("stopped");
  }

  end(state) {
    this.thoughtEnds();
    this.record.state = state;
    this.element.removeAttribute("aria-busy");
    this.view.finish();
    this.drawEnd();
    this.onpaint();
  }

  drawEnd() {
    const { state, done, error, from } = this.record;
    this.element.dataset.end = state;
    if (this.record.thoughts) {
      this.drawThought();
    }
    const trimmed = from?.trimmed ? ` · ${from.trimmed} old messages were left out` : "";
    write(this.note, state === "stopped" ? "Stopped." : done ? `${usageLine(done)}${trimmed}` : "");
    if (done) {
      this.note.title = `Finish reason: ${done.finish_reason}. Sent to the engine after ${milliseconds(done.timings?.queued_ms ?? 0)}.`;
    }
    tell(this.problem, error?.message ?? "");
    const hint = error && this.hint(error);
    if (hint) {
      this.problem.append(" ", hint);
    }
  }
}

/** A message of the person's own. */
export function questionElement(text, ...more) {
  return make(
    "li",
    { class: "mh-message", "data-role": "user" },
    make("span", { class: "mh-hidden" }, "You: "),
    make("div", { class: "mh-message__text" }, text),
    ...more,
  );
}
