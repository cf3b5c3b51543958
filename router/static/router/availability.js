// Whether models can answer, kept true by the status. Read again when an engine's state changes; nothing is polled.

import { call } from "../mh/api.js";
import { hook, write } from "../mh/dom.js";
import { live } from "../mh/live.js";

/** Milliseconds in which several changes are one. */
const PAUSE = 250;
const TONES = {
  available: "good",
  "backend off": "warn",
  "not installed": "bad",
  "needs credentials": "bad",
};

/** What of a status says who can answer. */
const digest = ({ active, available }) =>
  JSON.stringify([
    active.backend,
    Object.entries(available).map(([name, { state, installed, running, model }]) => [name, state, installed, running, model]),
  ]);

export function renderAvailability(element, { state, message }) {
  const tag = hook(element, "availability");
  if (tag) {
    tag.dataset.tone = TONES[state] ?? "";
    write(tag, state);
  }
  write(hook(element, "reason"), message);
}

/** Call `listener({ models, roles })` with the rows of REST, whenever they may have changed. */
export function watchAvailability(scope, listener) {
  const query = scope === "site" ? "?scope=site" : "";
  let seen = live?.status ? digest(live.status) : "";
  let timer = null;
  let newest = 0;
  async function read() {
    const asked = ++newest;
    try {
      const [models, roles] = await Promise.all([call("GET", `/api/models${query}`), call("GET", `/api/roles${query}`)]);
      // The first to be asked may be the last to answer.
      if (asked === newest) {
        listener({ models: models.results, roles: roles.results });
      }
    } catch {
      // The next change asks again; the header says that the connection is gone.
    }
  }
  live?.on("status", (status) => {
    const now = digest(status);
    if (now !== seen) {
      seen = now;
      clearTimeout(timer);
      timer = setTimeout(read, PAUSE);
    }
  });
}
