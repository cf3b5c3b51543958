// Chats over /ws/chat/: as many at once as one likes, on one socket.

import { LiveSocket } from "./socket.js";

export class Chats {
  /** `onstate("open" | "waiting" | "signed-out" | "refused")`. */
  constructor(onstate) {
    this.running = new Map();
    this.state = "waiting";
    this.onstate = onstate;
    this.socket = new LiveSocket("/ws/chat/", {
      ping: true,
      onframe: (frame) => this.received(frame),
      onstate: (state) => this.connection(state),
    });
  }

  get isOpen() {
    return this.state === "open" && this.socket.ready;
  }

  /** Whether one may ask now, and whether one will be able to by waiting. */
  get readiness() {
    return { mayAsk: this.isOpen, isConnecting: this.state === "waiting" };
  }

  /**
   * Ask; `listener(frame)` hears everything about it, the last being `done`, `error`, or `{type: "lost"}` when the
   * connection went away. Returns the chat's id, or "" where it could not be sent.
   */
  ask(request, listener) {
    const id = crypto.randomUUID?.() ?? `chat-${Date.now()}-${Math.random()}`;
    if (!this.socket.send({ type: "chat", id, ...request })) {
      return "";
    }
    this.running.set(id, listener);
    return id;
  }

  /** Stop a chat in its engine, and hear no more of it. */
  cancel(id) {
    if (this.running.delete(id)) {
      this.socket.send({ type: "cancel", id });
    }
  }

  received(frame) {
    const listener = this.running.get(frame.id);
    if (frame.type === "done" || frame.type === "error") {
      this.running.delete(frame.id);
    }
    listener?.(frame);
  }

  connection(state) {
    this.state = state;
    if (state !== "open") {
      const lost = [...this.running.values()];
      this.running.clear();
      for (const listener of lost) {
        listener({ type: "lost" });
      }
    }
    this.onstate(state);
  }
}
