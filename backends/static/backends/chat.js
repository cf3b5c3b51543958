// The chat box: one conversation with whatever is active.

import { Answer, questionElement } from "../mh/answer.js";
import { Chats } from "../mh/chats.js";
import { hook, show, write } from "../mh/dom.js";
import { Follow } from "../mh/follow.js";

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
    this.follow = new Follow(this.list);
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
    this.chats = new Chats(() => this.renderControls());
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
    const online = this.chats.isOpen;
    const possible = Boolean(this.model) && online;
    const hint =
      this.why || (online ? "Enter sends, Shift+Enter makes a new line." : "Connecting to the chat…");
    write(hook(this.root, "chat-hint"), this.chats.state === "refused" ? "You may not chat here." : hint);
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
    const messages = [...this.messages, { role: "user", content: text }];
    const answer = new Answer(undefined, { onpaint: () => this.follow.grown() });
    this.id = this.chats.ask({ messages, options: this.options() }, (frame) => this.received(answer, frame));
    if (!this.id) {
      this.renderControls();
      return;
    }
    this.messages = messages;
    this.list.append(questionElement(text));
    this.answer = answer;
    this.list.append(answer.element);
    this.prompt.value = "";
    this.renderControls();
    this.prompt.focus();
    this.follow.toEnd();
  }

  options() {
    const temperature = hook(this.root, "chat-temperature").valueAsNumber;
    return Number.isNaN(temperature) ? {} : { temperature };
  }

  cancel() {
    if (this.answer) {
      this.chats.cancel(this.id);
      this.answer.stop();
      this.ended();
    }
  }

  restart() {
    this.messages = [];
    this.list.replaceChildren();
    this.renderControls();
    this.prompt.focus();
  }

  /** Once a second: the time left of what waits. */
  tick() {
    this.answer?.tick();
  }

  received(answer, frame) {
    answer.feed(frame);
    if (!answer.isRunning) {
      this.ended();
    }
  }

  ended() {
    const { record } = this.answer;
    this.answer = null;
    if (record.text) {
      this.messages = [...this.messages, { role: "assistant", content: record.text }];
    } else {
      // Nothing came: the question is not part of what the model is told next.
      this.messages = this.messages.slice(0, -1);
    }
    write(hook(this.root, "chat-announce"), record.error?.message || record.text);
    this.renderControls();
  }
}
