// The chat box: one conversation over /ws/chat/.

import { hook, make, show, tell, write } from "../mh/dom.js";
import { milliseconds } from "../mh/format.js";
import { LiveSocket } from "../mh/socket.js";

/** One answer on the page, growing while it arrives. */
class Answer {
  constructor() {
    this.content = "";
    this.thoughts = "";
    this.text = make("div", { class: "mh-message__text" });
    this.reasoning = make("div", { class: "mh-fold__body" });
    this.fold = make("details", { class: "mh-fold" }, make("summary", {}, "Reasoning"), this.reasoning);
    this.fold.hidden = true;
    this.problem = make("p", { class: "mh-message__error" });
    this.problem.hidden = true;
    this.note = make("p", { class: "mh-subtle", "data-chat-usage": "" }, "Waiting…");
    this.element = make(
      "li",
      { class: "mh-message", "data-role": "assistant", "aria-busy": "true" },
      make("span", { class: "mh-hidden" }, "Answer: "),
      this.fold,
      this.text,
      this.problem,
      this.note,
    );
  }

  add(text) {
    this.content += text;
    this.text.append(text);
    write(this.note, "");
  }

  think(text) {
    this.thoughts += text;
    this.reasoning.append(text);
    show(this.fold, true);
    write(this.note, "");
  }

  queued(frame) {
    const wait = frame.eta_seconds ? `, about ${Math.round(frame.eta_seconds)} s` : "";
    write(this.note, `${frame.reason || "Waiting"} (place ${frame.position}${wait})`);
  }

  end(note, problem = "") {
    this.element.removeAttribute("aria-busy");
    write(this.note, note);
    tell(this.problem, problem);
  }
}

/** "7 tokens · first after 180 ms · 24.0 tokens/s · 0.5 s" */
export function usageLine({ usage, timings, finish_reason: reason }) {
  const parts = [];
  const tokens = usage?.completion_tokens;
  const [first, total] = [timings?.ttft_ms, timings?.total_ms];
  if (tokens !== undefined && tokens !== null) {
    parts.push(`${tokens} tokens`);
  }
  if (first) {
    parts.push(`first after ${milliseconds(first)}`);
  }
  if (tokens > 1 && total > first) {
    parts.push(`${(((tokens - 1) * 1000) / (total - first)).toFixed(1)} tokens/s`);
  }
  if (total) {
    parts.push(`${milliseconds(total)} in all`);
  }
  if (reason && reason !== "stop") {
    parts.push(reason === "length" ? "cut at the length limit" : reason);
  }
  return parts.join(" · ");
}

export class Chat {
  constructor(root, config) {
    this.root = root;
    this.config = config;
    this.messages = [];
    this.answer = null;
    this.id = "";
    this.model = null;
    this.why = "";
    this.prompt = root.querySelector("textarea");
    this.list = hook(root, "chat-list");
    this.form = hook(root, "chat-form");
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
    this.prompt.addEventListener("input", () => this.renderControls());
    hook(root, "chat-stop").addEventListener("click", () => this.cancel());
    hook(root, "chat-new").addEventListener("click", () => this.restart());
    this.socketState = "waiting";
    this.socket = new LiveSocket("/ws/chat/", {
      onframe: (frame) => this.received(frame),
      onstate: (state) => this.connection(state),
    });
  }

  /** Follow the status: which model answers, or why none does. */
  render(status) {
    const { active, available } = status;
    const ready = this.config.chatStates.includes(active.state);
    const title = available[active.backend]?.title ?? active.backend;
    this.model = ready ? active.model : null;
    this.why = ready ? "" : this.reason(active, available[active.backend], title);
    write(hook(this.root, "chat-model"), ready ? `${active.model} on ${title}` : "");
    this.renderControls();
  }

  reason(active, entry, title) {
    if (!entry) {
      return "There is no backend to chat with.";
    }
    if (entry.installing !== null) {
      return `${title} is being installed; you can chat when it has been started.`;
    }
    if (!entry.installed) {
      return `${title} is not installed, so nobody can answer yet.`;
    }
    if (active.state === "starting") {
      return `${title} is starting; you can chat when it is ready.`;
    }
    return this.config.mayOperate[active.backend]
      ? `Start ${title} to chat.`
      : `${title} is not running; its owner can start it.`;
  }

  renderControls() {
    const busy = this.answer !== null;
    const online = this.socketState === "open";
    const possible = Boolean(this.model) && online;
    const hint =
      this.why || (online ? "Enter sends, Shift+Enter makes a new line." : "Connecting to the chat…");
    write(hook(this.root, "chat-hint"), this.socketState === "refused" ? "You may not chat here." : hint);
    this.prompt.disabled = !possible && !busy;
    const send = hook(this.root, "chat-send");
    send.disabled = !possible || busy || !this.prompt.value.trim();
    show(hook(this.root, "chat-stop"), busy, () => this.prompt);
    show(send, !busy);
    show(hook(this.root, "chat-new"), this.messages.length > 0 && !busy);
  }

  send() {
    const text = this.prompt.value.trim();
    if (!text || this.answer || !this.model) {
      return;
    }
    this.id = crypto.randomUUID?.() ?? `chat-${Date.now()}-${Math.random()}`;
    const messages = [...this.messages, { role: "user", content: text }];
    const frame = { type: "chat", id: this.id, messages, options: this.options() };
    if (!this.socket.send(frame)) {
      this.connection("waiting");
      return;
    }
    this.messages = messages;
    this.list.append(this.question(text));
    this.answer = new Answer();
    this.list.append(this.answer.element);
    this.prompt.value = "";
    this.renderControls();
    this.prompt.focus();
    this.follow(true);
  }

  question(text) {
    return make(
      "li",
      { class: "mh-message", "data-role": "user" },
      make("span", { class: "mh-hidden" }, "You: "),
      make("div", { class: "mh-message__text" }, text),
    );
  }

  options() {
    const temperature = hook(this.root, "chat-temperature").valueAsNumber;
    return Number.isNaN(temperature) ? {} : { temperature };
  }

  cancel() {
    if (this.answer) {
      this.socket.send({ type: "cancel", id: this.id });
      this.end("Stopped.");
    }
  }

  restart() {
    this.messages = [];
    this.list.replaceChildren();
    this.renderControls();
    this.prompt.focus();
  }

  received(frame) {
    if (!this.answer || (frame.id !== undefined && frame.id !== this.id)) {
      return;
    }
    const atEnd = this.atEnd();
    switch (frame.type) {
      case "queued":
        this.answer.queued(frame);
        break;
      case "token":
        this.answer.add(frame.content);
        break;
      case "reasoning":
        this.answer.think(frame.content);
        break;
      case "done":
        this.end(usageLine(frame));
        break;
      case "error":
        this.end("", frame.error?.message ?? "The answer broke off.");
        break;
      default:
        break;
    }
    this.follow(atEnd);
  }

  end(note, problem = "") {
    const { answer } = this;
    this.answer = null;
    answer.end(note, problem);
    if (answer.content) {
      this.messages = [...this.messages, { role: "assistant", content: answer.content }];
    } else {
      // Nothing came: the question is not part of what the model is told next.
      this.messages = this.messages.slice(0, -1);
    }
    write(hook(this.root, "chat-announce"), problem || answer.content);
    this.renderControls();
  }

  connection(state) {
    this.socketState = state;
    if (state !== "open" && this.answer) {
      this.end("", "The connection was lost, and with it the rest of the answer.");
    }
    this.renderControls();
  }

  atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    return scrollHeight - scrollTop - clientHeight < 40;
  }

  /** Keep the newest line in view, unless the reader scrolled up. */
  follow(wanted) {
    if (wanted) {
      this.list.scrollTop = this.list.scrollHeight;
    }
  }
}
