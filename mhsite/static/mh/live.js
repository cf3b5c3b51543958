// What is true now, for everything on a page: one socket to /ws/status/, however many listen.
//
//   import { live } from "/static/mh/live.js";
//   live.on("status", (status) => …)      // as REST; at once with what the page came with, then on change
//   live.on("change", (status) => …)       // what runs, or as what, is not what it was; not that it works
//   live.on("operation", (operation) => …) // an operation moved
//   live.on("gpu", (gpus) => …)
//   live.on("sample", (frame) => …)        // every 5 s: means of all measures, of GPUs and backends
//   live.on("connection", (state) => …)    // "waiting" | "open" | "signed-out" | "refused"

import { LiveSocket } from "./socket.js";

/** What lists of a page depend on, of a status: tokens and requests move all the time and change none. */
function outline({ operation, available }) {
  const entries = Object.values(available).map((one) => [one.state, one.model, one.running, one.revision]);
  return JSON.stringify([operation?.id ?? null, entries]);
}

class Live extends EventTarget {
  constructor(status) {
    super();
    /** The newest status, kept true by what operations and GPUs say between two of them. */
    this.status = status;
    this.connection = "waiting";
    this.heardAt = Date.now();
    new LiveSocket("/ws/status/", {
      ping: true,
      onframe: (frame) => this.received(frame),
      onstate: (state) => {
        this.connection = state;
        this.tell("connection", state);
      },
    });
  }

  /** Call `listener` with what `kind` is now, where that is known, and whenever it changes. */
  on(kind, listener) {
    this.addEventListener(kind, (event) => listener(event.detail));
    const known = { status: this.status, connection: this.connection }[kind];
    if (known) {
      listener(known);
    }
  }

  tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  received(frame) {
    this.heardAt = Date.now();
    if (frame.type === "status") {
      const changed = outline(this.status) !== outline(frame);
      this.status = frame;
      this.tell("status", frame);
      if (changed) {
        this.tell("change", frame);
      }
    } else if (frame.type === "operation") {
      this.tell("operation", frame.operation ?? frame);
    } else if (frame.type === "gpu") {
      this.tell("gpu", frame.gpus);
    } else {
      this.tell(frame.type, frame);
    }
  }
}

const data = JSON.parse(document.getElementById("mh-header-data")?.textContent ?? "null");

/** The words and the first status that the page came with; null where nobody is signed in. */
export const header = data;
/** Null where nobody is signed in. */
export const live = data && new Live(data.status);
