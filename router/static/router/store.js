// Conversations, kept in this browser only, for one user of the site.
//
// A tab's own copy (session storage) wins, so that two tabs do not overwrite each other; a new tab begins with
// what was saved last by any of them (local storage). Deleting deletes both, in every tab.

const VERSION = 1;

/** Bring what a page that was left in the middle of an answer has saved into a state that is true. */
function settled(turn) {
  if (turn.state !== "running") {
    return turn;
  }
  const error = { message: "The page was left before this answer was complete.", code: "left" };
  return { ...turn, state: turn.text ? "cut" : "failed", error };
}

const isConversation = (value) => Array.isArray(value?.turns) && typeof value.target === "string";

export class Store {
  /** `onproblem(sentence)` when the browser keeps no more; `ondeleted()` when another tab deleted everything. */
  constructor(user, { onproblem, ondeleted }) {
    this.key = `mh-chat:${user}`;
    this.onproblem = onproblem;
    this.timer = null;
    window.addEventListener("storage", (event) => {
      if (event.key === this.key && event.newValue === null) {
        clearTimeout(this.timer);
        sessionStorage.removeItem(this.key);
        ondeleted();
      }
    });
    window.addEventListener("pagehide", () => this.flush());
  }

  /** Return `{conversations, compare}`, or null where nothing good is kept. */
  load() {
    for (const storage of [sessionStorage, localStorage]) {
      try {
        const kept = JSON.parse(storage.getItem(this.key));
        const conversations = kept?.version === VERSION ? kept.conversations.filter(isConversation) : [];
        if (conversations.length) {
          const whole = conversations.map((one) => ({ ...one, turns: one.turns.map(settled) }));
          return { conversations: whole, compare: Boolean(kept.compare) };
        }
      } catch {
        // Not ours, or broken: as if there were nothing.
      }
    }
    return null;
  }

  /** Save what `read()` returns, a moment from now. */
  saveSoon(read) {
    this.read = read;
    this.timer ??= setTimeout(() => this.flush(), 400);
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.read) {
      return;
    }
    const text = JSON.stringify({ version: VERSION, ...this.read() });
    this.read = null;
    try {
      sessionStorage.setItem(this.key, text);
      localStorage.setItem(this.key, text);
      this.onproblem("");
    } catch {
      this.onproblem("This browser keeps no more: what was said last will be gone when you leave. Clear a conversation to make room.");
    }
  }

  delete() {
    clearTimeout(this.timer);
    this.timer = this.read = null;
    sessionStorage.removeItem(this.key);
    localStorage.removeItem(this.key);
  }
}
