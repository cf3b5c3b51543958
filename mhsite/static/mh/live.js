// What is true now, for everything on a page: one socket to /ws/status/, however many listen.
//
//   import { live } from "/static/mh/live.js";
//   live.on("status", (status) => …)      // as REST; at once with what the page came with, then on change
//   live.on("operation", (operation) => …) // an operation moved
//   live.on("gpu", (gpus) => …)
//   live.on("sample", (frame) => …)        // every 5 s: means of all measures, of GPUs and backends
//   live.on("connection", (state) => …)    // "waiting" | "open" | "signed-out" | "refused"

import { LiveSocket } from "./socket.js";

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
      this.status = frame;
      this.tell("status", frame);
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
