// One conversation on the page: whom it is with, its settings, what was said, and what is being answered.

import { Answer, newRecord, questionElement } from "../mh/answer.js";
import { copyText } from "../mh/clipboard.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { Follow } from "../mh/follow.js";
import { Composer } from "./composer.js";
import { messagesOf } from "./conversation.js";
import { hintFor } from "./hints.js";
import { Settings } from "./settings.js";

const quiet = (text, run) => {
  const button = make("button", { type: "button", class: "mh-quiet" }, text);
  button.addEventListener("click", () => run(button));
  return button;
};

export class Column {
  /** `page` has `chats`, `targets`, `config`, and hears of `changed()`, `ended(column)`, `removed(column)`. */
  constructor(root, conversation, page) {
    this.root = root;
    this.conversation = conversation;
    this.page = page;
    /** The elements of the turns, in their order; answers as `Answer`. */
    this.items = [];
    this.answer = null;
    this.chatId = "";
    /** What `clear` took, until something else is said. */
    this.cleared = [];
    this.leaveEditor = () => {};
    this.list = hook(root, "list");
    this.target = hook(root, "target");
    this.follow = new Follow(this.list, (follows) => show(hook(root, "jump"), !follows));
    this.settings = new Settings(hook(root, "settings"), conversation, () => page.changed());
    this.composer = new Composer(hook(root, "composer"), {
      onsend: (text, images) => this.ask(text, images),
      onstop: () => this.stop(),
      limits: page.config,
    });
    this.listen();
    this.draw();
  }

  listen() {
    this.target.addEventListener("change", () => {
      this.conversation.target = this.target.value;
      this.page.changed();
      this.render();
    });
    hook(this.root, "clear").addEventListener("click", () => this.clear());
    hook(this.root, "undo").addEventListener("click", () => this.unclear());
    hook(this.root, "remove").addEventListener("click", () => this.page.removed(this));
    hook(this.root, "jump").addEventListener("click", () => {
      this.follow.toEnd();
      this.composer.focus();
    });
  }

  get isBusy() {
    return this.answer !== null;
  }

  get turns() {
    return this.conversation.turns;
  }

  get name() {
    return this.page.targets.name(this.conversation.target);
  }

  // What is asked.

  /** Ask; returns whether it could be sent. */
  ask(text, images = []) {
    if (this.isBusy || this.settings.complain()) {
      return false;
    }
    this.turns.push({ role: "user", text, images });
    if (!this.answerNow()) {
      this.turns.pop();
      return false;
    }
    return true;
  }

  /** Have the conversation as it stands answered. */
  answerNow() {
    const { chats, targets } = this.page;
    const record = newRecord();
    const request = {
      ...targets.request(this.conversation.target),
      messages: messagesOf(this.conversation),
      ...this.settings.request(),
    };
    const id = chats.ask(request, (frame) => this.received(frame));
    if (!id) {
      this.render();
      return false;
    }
    this.chatId = id;
    this.cleared = [];
    this.leaveEditor();
    this.turns.push(record);
    this.drawMissing();
    this.answer = this.items.at(-1);
    this.changed();
    this.follow.toEnd();
    return true;
  }

  received(frame) {
    const { answer } = this;
    answer.feed(frame);
    if (frame.type === "start") {
      tell(answer.fallback, this.page.targets.fallback(this.conversation.target, frame));
    }
    if (!answer.isRunning) {
      this.ended();
    }
  }

  stop() {
    if (this.isBusy) {
      this.page.chats.cancel(this.chatId);
      this.answer.stop();
      this.ended();
    }
  }

  ended() {
    this.answer = null;
    this.changed();
    this.page.ended(this);
  }

  changed() {
    this.render();
    this.follow.grown();
    this.page.changed();
  }

  /** Forget the turns from `index` on. */
  cut(index) {
    this.turns.length = index;
    for (const item of this.items.splice(index)) {
      (item.element ?? item).remove();
    }
  }

  again() {
    if (this.isBusy || this.settings.complain()) {
      return;
    }
    this.cut(this.turns.findLastIndex(({ role }) => role === "user") + 1);
    this.answerNow();
    this.composer.focus();
  }

  clear() {
    this.stop();
    this.cleared = [...this.turns];
    this.cut(0);
    this.changed();
    this.composer.focus();
  }

  unclear() {
    this.turns.push(...this.cleared);
    this.cleared = [];
    this.drawMissing();
    this.changed();
    this.follow.toEnd();
    this.composer.focus();
  }

  // What is shown.

  draw() {
    this.drawMissing();
    this.refreshTargets();
    this.follow.toEnd();
  }

  drawMissing() {
    for (const turn of this.turns.slice(this.items.length)) {
      const item = turn.role === "user" ? this.question(turn) : this.answerOf(turn);
      this.items.push(item);
      this.list.append(item.element ?? item);
    }
  }

  question(turn) {
    const images = (turn.images ?? []).map((url, index) => make("img", { src: url, alt: `Image ${index + 1} of the message` }));
    const lost = turn.images?.length ? 0 : turn.imageCount;
    const more = [
      ...(images.length ? [make("div", { class: "chat-images" }, ...images)] : []),
      ...(lost ? [make("p", { class: "mh-subtle" }, `${lost} image${lost > 1 ? "s" : ""}, not kept`)] : []),
      make("span", { class: "mh-message__actions", "data-actions": "" }),
    ];
    return questionElement(turn.text, ...more);
  }

  answerOf(record) {
    const answer = new Answer(record, {
      onpaint: () => this.follow.grown(),
      hint: (error) => hintFor(error, this.page.config),
    });
    answer.fallback = make("span", { class: "mh-tag", "data-tone": "warn" });
    tell(answer.fallback, this.page.targets.fallback(this.conversation.target, record.from));
    answer.from.after(answer.fallback);
    return answer;
  }

  refreshTargets() {
    this.page.targets.fill(this.target, this.conversation.target);
    this.render();
  }

  render() {
    const { chats, targets } = this.page;
    const { target } = this.conversation;
    const problem = targets.problem(target);
    tell(hook(this.root, "availability"), problem);
    const isEmpty = this.turns.length === 0;
    show(hook(this.root, "empty"), isEmpty);
    show(hook(this.root, "undo"), this.cleared.length > 0);
    write(hook(this.root, "empty-hint"), problem ? "Who is chosen above cannot answer now; a question may wait, or be refused." : `Ask ${this.name === "whatever is active" ? "what is active" : this.name} something.`);
    show(hook(this.root, "clear"), !isEmpty, () => this.composer.prompt);
    const blind = this.composer.images.length && targets.isBlind(target);
    this.composer.update({
      ...chats.readiness,
      isBusy: this.isBusy,
      hint: blind ? "The registry says that this model takes no images." : "",
    });
    this.drawActions();
  }

  /** What can be done with each turn: the last can be changed, every answer copied. */
  drawActions() {
    const lastQuestion = this.turns.findLastIndex(({ role }) => role === "user");
    for (const [index, item] of this.items.entries()) {
      const place = item.actions ?? hook(item, "actions");
      const isLast = index >= lastQuestion;
      const wanted = this.isBusy ? (item === this.answer && this.page.isComparing ? "stop" : "") : isLast ? "last" : "old";
      if (place && place.dataset.drawn !== wanted) {
        place.dataset.drawn = wanted;
        place.replaceChildren(...this.actionsOf(item, index, wanted));
      }
    }
  }

  actionsOf(item, index, wanted) {
    const isLast = wanted === "last";
    if (wanted === "stop") {
      // The composer below stops all of them.
      return [quiet("Stop this one", () => this.stop())];
    }
    if (wanted === "") {
      return [];
    }
    if (!(item instanceof Answer)) {
      return isLast ? [quiet("Edit", () => this.edit(index))] : [];
    }
    const { record } = item;
    const copy = quiet("Copy", async (button) => {
      write(button, (await copyText(record.text)) ? "Copied" : "Could not copy");
      setTimeout(() => write(button, "Copy"), 2000);
    });
    return [
      ...(record.text ? [copy] : []),
      ...(isLast ? [quiet(record.state === "done" ? "Regenerate" : "Try again", () => this.again())] : []),
      ...(index === this.items.length - 1 && record.tools.length ? [quiet("Answer the calls", () => this.giveResults(item))] : []),
    ];
  }

  /** Put the last question into an editor in its place; sending it takes back what was answered. */
  edit(index) {
    const turn = this.turns[index];
    const before = this.items[index];
    const field = make("textarea", { class: "mh-input", rows: "3", "aria-label": "Edit the message" });
    field.value = turn.text;
    const send = make("button", { type: "submit", class: "mh-button mh-button--small mh-button--primary" }, "Send again");
    const form = make("form", { class: "chat-edit" }, field, make("div", { class: "mh-actions" }, send));
    const item = make("li", { class: "mh-message", "data-role": "user" }, form);
    const close = () => item.replaceWith(before);
    const leave = () => {
      close();
      hook(before, "actions")?.querySelector("button")?.focus();
    };
    this.leaveEditor = close;
    form.lastChild.append(quiet("Leave as it was", leave));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!field.value.trim() || this.isBusy || !this.page.chats.isOpen || this.settings.complain()) {
        return;
      }
      close();
      this.cut(index);
      this.ask(field.value.trim(), turn.images ?? []);
      this.composer.focus();
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    before.replaceWith(item);
    field.focus();
  }

  /** Say what the tools gave, and go on. */
  giveResults(answer) {
    const tools = answer.record.tools.filter(Boolean);
    const fields = tools.map((call) => make("textarea", { class: "mh-input chat-json", rows: "2", "aria-label": `What ${call.name} gave` }));
    const go = make("button", { type: "submit", class: "mh-button mh-button--small mh-button--primary" }, "Go on with these");
    const labelled = fields.map((field, index) => make("label", { class: "mh-field" }, make("span", { class: "mh-field__label" }, `What ${tools[index].name} gave`), field));
    const form = make("form", { class: "chat-edit" }, ...labelled, make("div", { class: "mh-actions" }, go));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      tools.forEach((call, index) => {
        call.result = fields[index].value;
      });
      form.remove();
      this.answerNow();
    });
    answer.tools.append(form);
    fields[0].focus();
  }
}
