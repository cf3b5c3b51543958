// The logs page: lines as they are written, with levels, search and pause.

import { hook, make, show, write } from "../mh/dom.js";
import { LiveSocket } from "../mh/socket.js";

/** Lines that are kept on the page. */
const MOST = 5000;
const LEVELS = [
  ["error", /\b(?:ERROR|CRITICAL|FATAL|PANIC)\b|level=(?:error|fatal)\b|^Traceback |\b[A-Z]\w*(?:Error|Exception)\b:/i],
  ["warning", /\bWARN(?:ING)?\b|level=warn/i],
  ["debug", /\bDEBUG\b|level=debug/i],
];
/** What the site itself asks every few seconds, and engines log: vLLM's and Ollama's. */
const PROBE = /"GET \/(?:health|metrics|version|load|v1\/models|is_sleeping) HTTP|\[GIN\].*\| GET\s+"\/api\/(?:version|ps|tags)"/;
const RANK = { error: 2, warning: 1 };

/** A traceback's lines go with the error they explain only where they say so themselves: no guessing. */
function levelOf(line) {
  return LEVELS.find(([, pattern]) => pattern.test(line))?.[0] ?? "info";
}

class Log {
  constructor(root) {
    this.root = root;
    this.box = hook(root, "log-lines");
    this.search = root.querySelector("#mh-log-search");
    this.level = root.querySelector("#mh-log-level");
    this.probes = root.querySelector("#mh-log-probes");
    this.pause = hook(root, "log-pause");
    this.end = hook(root, "log-end");
    this.waiting = [];
    this.follows = true;
    const lines = [...this.box.querySelectorAll(":scope > div")].map((line) => line.textContent);
    this.reset(lines);
    this.search.addEventListener("input", () => this.choose());
    this.level.addEventListener("change", () => this.choose());
    this.probes.addEventListener("change", () => this.choose());
    this.pause.addEventListener("click", () => this.toggle());
    this.end.addEventListener("click", () => this.toEnd());
    this.box.addEventListener("scroll", () => this.scrolled());
  }

  get paused() {
    return this.pause.getAttribute("aria-pressed") === "true";
  }

  reset(lines) {
    this.box.replaceChildren();
    this.add(lines);
    if (!lines.length) {
      this.box.append(make("p", { class: "mh-subtle", "data-log-empty": "" }, "Nothing has been written yet."));
    }
    this.toEnd();
  }

  /** The last lines as a fresh line tells them: only those that are not here yet are added. */
  join(lines) {
    const here = [...this.box.querySelectorAll(":scope > [data-level]")].map(({ text }) => text);
    let same = Math.min(here.length, lines.length);
    while (same && !lines.slice(0, same).every((line, i) => line === here[here.length - same + i])) {
      same -= 1;
    }
    if (same || !here.length) {
      this.add(lines.slice(same));
    } else {
      this.reset(lines);
    }
  }

  /** A new start began: what was written before stays readable above a line. */
  begin(lines) {
    const mark = make("div", { "data-break": "" }, "A new start begins here.");
    this.append([mark, ...lines.map((line) => this.line(line))]);
  }

  add(lines) {
    if (this.paused) {
      this.waiting.push(...lines);
      this.waiting.splice(0, this.waiting.length - MOST);
      this.count();
      return;
    }
    this.append(lines.map((line) => this.line(line)));
  }

  append(elements) {
    hook(this.box, "log-empty")?.remove();
    this.box.append(...elements);
    while (this.box.childElementCount > MOST) {
      this.box.firstElementChild.remove();
    }
    this.count();
    if (this.follows) {
      this.box.scrollTop = this.box.scrollHeight;
    }
  }

  line(text) {
    const element = make("div", { "data-level": levelOf(text) });
    element.text = text;
    this.paint(element);
    return element;
  }

  /** Write the line with what is searched for marked in it, and hide it where it is not chosen. */
  paint(element) {
    const { text } = element;
    const wanted = this.search.value.toLowerCase();
    const least = RANK[this.level.value] ?? 0;
    const found = !wanted || text.toLowerCase().includes(wanted);
    const probe = !this.probes.checked && PROBE.test(text);
    element.hidden = !found || probe || (RANK[element.dataset.level] ?? 0) < least;
    if (element.hidden || !wanted) {
      write(element, text);
      return;
    }
    const parts = [];
    const lower = text.toLowerCase();
    let from = 0;
    for (let at = lower.indexOf(wanted); at !== -1; at = lower.indexOf(wanted, from)) {
      parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
    element.replaceChildren(...parts, text.slice(from));
  }

  choose() {
    for (const element of this.box.children) {
      if (element.text !== undefined) {
        this.paint(element);
      }
    }
    this.count();
    if (this.follows) {
      this.box.scrollTop = this.box.scrollHeight;
    }
  }

  count() {
    const shown = this.box.querySelectorAll(":scope > [data-level]:not([hidden])").length;
    const held = this.waiting.length ? `, ${this.waiting.length} more wait` : "";
    write(hook(this.root, "log-count"), `${shown} lines${held}`);
  }

  toggle() {
    const pausing = !this.paused;
    this.pause.setAttribute("aria-pressed", String(pausing));
    write(this.pause, pausing ? "Go on" : "Pause");
    if (!pausing) {
      const lines = this.waiting.splice(0);
      this.add(lines);
    }
  }

  toEnd() {
    this.follows = true;
    this.box.scrollTop = this.box.scrollHeight;
    show(this.end, false, () => this.box);
  }

  scrolled() {
    const left = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    this.follows = left < 24;
    show(this.end, !this.follows, () => this.box);
  }
}

const STATES = {
  open: ["good", "Live"],
  waiting: ["warn", "Reconnecting…"],
  "signed-out": ["bad", "Signed out"],
  refused: ["bad", "Not allowed"],
};

function follow(log, backend) {
  const tag = hook(document, "log-state");
  let first = true;
  new LiveSocket(`/ws/logs/${encodeURIComponent(backend)}/`, {
    onframe: (frame) => {
      if (frame.type !== "log") {
        return;
      }
      if (first) {
        log.join(frame.lines);
      } else if (frame.reset) {
        log.begin(frame.lines);
      } else {
        log.add(frame.lines);
      }
      first = false;
    },
    onstate: (state) => {
      const [tone, word] = STATES[state];
      tag.dataset.tone = tone;
      write(tag, word);
      first = true;
    },
  });
}

const root = document.querySelector(".mh-logs");
if (root) {
  const config = JSON.parse(document.getElementById("mh-config").textContent);
  const log = new Log(root);
  const form = hook(document, "choose");
  form.querySelector("#mh-log-backend").addEventListener("change", () => {
    form.querySelector("#mh-log-start").value = "";
    form.submit();
  });
  form.querySelector("#mh-log-start").addEventListener("change", () => form.submit());
  if (config.start) {
    show(hook(document, "log-pause"), false);
  } else {
    follow(log, config.backend);
  }
}
