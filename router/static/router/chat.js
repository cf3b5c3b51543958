// The Chat page: up to four conversations side by side, all on one socket, kept in this browser.

import { Chats } from "../mh/chats.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { live } from "../mh/live.js";
import { Column } from "./column.js";
import { Composer } from "./composer.js";
import { kept, newConversation } from "./conversation.js";
import { Store } from "./store.js";
import { Targets } from "./targets.js";

const MOST = 4;
const SPOKEN = 600;
/** Operations after which something answers. */
const COMING = new Set(["start", "restart", "switch", "change_model", "apply"]);
const CONNECTIONS = {
  waiting: "Connecting…",
  "signed-out": "You are signed out. Reload the page to sign in.",
  refused: "You may not chat here.",
};

class ChatPage {
  constructor(root, config) {
    this.root = root;
    this.config = config;
    this.columns = [];
    this.wasOpen = false;
    this.place = hook(root, "columns");
    this.template = document.getElementById("chat-column");
    this.compare = hook(root, "compare");
    this.announcer = document.getElementById("mh-announce");
    this.targets = new Targets(config);
    this.store = new Store(config.user, {
      onproblem: (sentence) => tell(hook(root, "store-problem"), sentence),
      ondeleted: () => this.restart(),
    });
    this.chats = new Chats((state) => this.connection(state));
    this.all = new Composer(hook(hook(root, "all"), "composer"), {
      onsend: (text, images) => this.askAll(text, images),
      onstop: () => this.stopAll(),
      limits: config,
    });
    this.listen();
    const found = this.store.load() ?? { conversations: [newConversation()], compare: false };
    this.compare.checked = found.compare;
    found.conversations.slice(0, MOST).forEach((conversation) => this.open(conversation));
    this.connection(this.chats.state);
  }

  listen() {
    hook(this.root, "add").addEventListener("click", () => this.add());
    hook(this.root, "stop-all").addEventListener("click", () => this.stopAll());
    this.compare.addEventListener("change", () => this.changed());
    const dialog = document.getElementById("chat-forget");
    hook(this.root, "forget").addEventListener("click", () => dialog.showModal());
    dialog.addEventListener("close", () => dialog.returnValue === "forget" && this.forget());
    this.place.addEventListener("scroll", () => this.renderTabs(), { passive: true });
  }

  // Which conversations there are.

  open(conversation) {
    const root = this.template.content.firstElementChild.cloneNode(true);
    this.place.append(root);
    const column = new Column(root, conversation, this);
    this.columns.push(column);
    return column;
  }

  add() {
    const like = this.columns.at(-1).conversation;
    const column = this.open(newConversation(like));
    // Two are there to be compared.
    this.compare.checked ||= this.columns.length === 2;
    this.changed();
    this.reveal(column);
    column.target.focus({ preventScroll: true });
  }

  removed(column) {
    column.stop();
    const index = this.columns.indexOf(column);
    this.columns.splice(index, 1);
    column.root.remove();
    this.changed();
    this.columns[Math.max(0, index - 1)].target.focus();
  }

  forget() {
    this.store.delete();
    this.restart();
    write(this.announcer, "All conversations were deleted.");
  }

  restart() {
    for (const column of this.columns.splice(0)) {
      column.stop();
      column.root.remove();
    }
    this.compare.checked = false;
    this.open(newConversation());
    this.render();
    this.columns[0].composer.focus();
  }

  // What is asked, and what is said of it.

  get isComparing() {
    return this.compare.checked && this.columns.length > 1;
  }

  askAll(text, images) {
    const wrong = this.columns.some((column) => column.settings.complain());
    return !wrong && this.columns.map((column) => column.ask(text, [...images])).some(Boolean);
  }

  stopAll() {
    for (const column of this.columns) {
      column.stop();
    }
  }

  changed() {
    this.store.saveSoon(() => ({
      conversations: this.columns.map(({ conversation }) => kept(conversation)),
      compare: this.compare.checked,
    }));
    this.render();
  }

  /** An answer has ended: said once, not token by token. */
  ended(column) {
    const { state, text, error } = column.turns.at(-1) ?? {};
    const who = this.columns.length > 1 ? ` from ${column.name}` : "";
    if (error) {
      write(this.announcer, `No whole answer${who}: ${error.message}`);
    } else if (state === "stopped") {
      write(this.announcer, `Stopped the answer${who}.`);
    } else if (this.columns.length > 1) {
      write(this.announcer, `The answer${who} is complete.`);
    } else if (text) {
      write(this.announcer, text.length > SPOKEN ? `The answer is complete. It begins: ${text.slice(0, SPOKEN)}` : `Answer: ${text}`);
    }
  }

  connection(state) {
    const words = state === "waiting" && this.wasOpen ? "Connection lost, reconnecting…" : (CONNECTIONS[state] ?? "");
    write(hook(this.root, "connection"), words);
    this.wasOpen ||= state === "open";
    for (const column of this.columns) {
      column.render();
    }
    this.render();
  }

  /** What runs has changed: so may have who can answer. */
  status(status) {
    const { backend, state, model, running } = status.active;
    const isComing = COMING.has(status.operation?.kind) && ["queued", "running"].includes(status.operation.state);
    this.targets.active = { backend, model: running ? model : null, running, isComing };
    const news = JSON.stringify([backend, state, model, Object.values(status.available).map((one) => [one.state, one.model])]);
    if (this.news && this.news !== news) {
      clearTimeout(this.asking);
      this.asking = setTimeout(() => this.refresh(), 250);
    }
    this.news = news;
    this.refreshTargets();
  }

  async refresh() {
    try {
      await this.targets.refresh();
      this.refreshTargets();
    } catch {
      // The site is away: it is asked again when the status says that it is back.
      this.news = "unknown";
    }
  }

  refreshTargets() {
    for (const column of this.columns) {
      // A list that somebody has open stays as it is.
      if (document.activeElement !== column.target) {
        column.refreshTargets();
      }
    }
  }

  tick() {
    for (const column of this.columns) {
      column.answer?.tick();
    }
  }

  // What is shown.

  render() {
    const { columns } = this;
    const several = columns.length > 1;
    const busy = columns.filter((column) => column.isBusy);
    this.place.dataset.count = columns.length;
    write(hook(this.root, "add"), several ? "Add another" : "Compare with another");
    show(hook(this.root, "add"), columns.length < MOST);
    show(hook(this.root, "compare-label"), several);
    show(hook(this.root, "all"), this.isComparing, () => columns[0].composer.prompt);
    show(hook(this.root, "stop-all"), busy.length > 1 && !this.isComparing);
    show(hook(this.root, "forget"), several || columns.some(({ turns }) => turns.length > 0));
    columns.forEach((column, index) => {
      write(hook(column.root, "title"), `Conversation ${index + 1}`);
      show(hook(column.root, "remove"), several);
      show(column.composer.root, !this.isComparing, () => this.all.prompt);
    });
    this.all.update({ ...this.chats.readiness, isBusy: busy.length > 0, hint: busy.length ? "Everybody is asked again when all have answered." : "" });
    this.renderTabs();
  }

  /** Where one conversation fills the window: which one is seen, and the way to the others. */
  renderTabs() {
    const tabs = hook(this.root, "tabs");
    show(tabs, this.columns.length > 1);
    const width = this.place.clientWidth || 1;
    const seen = Math.round(this.place.scrollLeft / width);
    const labels = this.columns.map((column, index) => `${index + 1} · ${column.name}`);
    if (tabs.dataset.labels !== labels.join("\n")) {
      tabs.dataset.labels = labels.join("\n");
      tabs.replaceChildren(...this.columns.map((column, index) => this.tab(column, labels[index])));
    }
    [...tabs.children].forEach((tab, index) => tab.setAttribute("aria-current", String(index === seen)));
  }

  tab(column, label) {
    const tab = make("button", { type: "button", class: "chat-tab" }, label);
    tab.addEventListener("click", () => this.reveal(column));
    return tab;
  }

  reveal(column) {
    this.place.scrollTo({ left: column.root.offsetLeft });
  }
}

const page = new ChatPage(document.getElementById("chat"), JSON.parse(document.getElementById("mh-config").textContent));
live.on("status", (status) => page.status(status));
// The page's own clock: time left, time thought. Asks the server nothing.
setInterval(() => page.tick(), 1000);
