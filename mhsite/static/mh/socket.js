// A websocket that comes back by itself.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15000;
/** A line that is silent so long is asked for a sign of life, and has so long to give one. */
const SILENCE = 20000;
const PATIENCE = 5000;
/** Close codes of the site after which trying again cannot help. */
const FINAL = new Map([
  [4401, "signed-out"],
  [4403, "refused"],
]);

/**
 * `onframe(frame)` for each JSON frame; `onstate("open" | "waiting" | "signed-out" | "refused")`.
 */
export class LiveSocket {
  constructor(path, { onframe, onstate, ping = false }) {
    this.url = new URL(path, window.location.href);
    this.url.protocol = this.url.protocol === "https:" ? "wss:" : "ws:";
    this.onframe = onframe;
    this.onstate = onstate;
    this.ping = ping;
    this.watchdog = null;
    this.failures = 0;
    this.timer = null;
    this.over = false;
    const hurry = () => this.hurry();
    window.addEventListener("online", hurry);
    window.addEventListener("pageshow", hurry);
    document.addEventListener("visibilitychange", hurry);
    // A page that is left takes its socket with it; without this Firefox reports an error.
    window.addEventListener("pagehide", () => this.socket?.close());
    this.open();
  }

  get ready() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  open() {
    clearTimeout(this.timer);
    this.timer = null;
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.addEventListener("open", () => this.onstate("open"));
    socket.addEventListener("message", (event) => {
      this.failures = 0;
      this.listen(socket);
      this.onframe(JSON.parse(event.data));
    });
    socket.addEventListener("close", (event) => {
      if (socket === this.socket) {
        this.closed(event.code);
      }
    });
  }

  /** Notice a line that is dead without having been closed: a machine that slept, a cut cable. */
  listen(socket) {
    clearTimeout(this.watchdog);
    if (!this.ping) {
      return;
    }
    this.watchdog = setTimeout(() => {
      this.send({ type: "ping" });
      this.watchdog = setTimeout(() => this.abandon(socket), PATIENCE);
    }, SILENCE);
  }

  /** Closing a dead line takes the browser a minute; the page does not wait for it. */
  abandon(socket) {
    if (socket === this.socket) {
      this.socket = null;
      socket.close();
      this.closed(0);
    }
  }

  closed(code) {
    clearTimeout(this.watchdog);
    if (FINAL.has(code)) {
      this.over = true;
      this.onstate(FINAL.get(code));
      return;
    }
    this.onstate("waiting");
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.failures);
    this.failures += 1;
    // Half of it random, so that many pages do not come back in step.
    this.timer = setTimeout(() => this.open(), wait * (0.5 + Math.random() / 2));
  }

  /** The network or the page is back: do not wait for the timer. */
  hurry() {
    if (!this.over && this.timer !== null && document.visibilityState === "visible") {
      this.open();
    }
  }

  /** Send a frame; returns whether it could be sent. */
  send(frame) {
    if (!this.ready) {
      return false;
    }
    this.socket.send(JSON.stringify(frame));
    return true;
  }
}
