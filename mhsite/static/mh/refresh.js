// Parts of a page, asked for again and put in place: for lists that the server writes.

import { call } from "./api.js";
import { live } from "./live.js";

/** Milliseconds within which several reasons to refresh are one. */
const TOGETHER = 250;

/** Milliseconds between two looks whether what the page shows as going on still does. */
const APART = 2000;
/** Operations that the page shows as going on. */
const GOING = "[data-refresh] :is([data-operation-state=running], [data-operation-state=queued])";
/** What can have the focus. */
const ABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

/** The page at this address as the server has it now. */
async function pageNow() {
  const text = await call("GET", window.location.pathname + window.location.search, undefined, { as: "text" });
  return new DOMParser().parseFromString(text, "text/html");
}

/** The part of a page with this name in `data-refresh`. */
const part = (root, name) => root.querySelector(`[data-refresh="${CSS.escape(name)}"]`);

/** Put only the named parts in place, now; returns them. A part that the server has no more goes here, too. */
export async function refreshed(...names) {
  const fresh = await pageNow();
  return names.map((name) => {
    const [old, now] = [part(document, name), part(fresh, name)];
    if (now) {
      old?.replaceWith(now);
    } else {
      old?.remove();
    }
    return now;
  });
}

/**
 * A function that reads this page again and replaces the elements with `data-refresh`.
 * What is unfolded stays unfolded, and the focus stays where it was, where elements or what they are in have ids.
 *
 * It runs by itself after the line was down, and where the page shows something as going on that has ended: that
 * can happen between the moment the page is made and the moment it hears of changes.
 */
export function refresher() {
  let timer = null;
  let running = false;
  let again = false;

  async function run() {
    timer = null;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      replace(await pageNow());
    } catch {
      // The header says that the line is down; the next change tries again.
    } finally {
      running = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  function refresh() {
    timer ??= setTimeout(run, TOGETHER);
  }

  let next = 0;
  live?.on("status", ({ operation }) => {
    if (!operation && document.querySelector(GOING)) {
      const wait = Math.max(0, next - Date.now());
      next = Date.now() + wait + APART;
      setTimeout(refresh, wait);
    }
  });
  let wasOpen = false;
  live?.on("connection", (state) => {
    if (state === "open") {
      if (wasOpen) {
        refresh();
      }
      wasOpen = true;
    }
  });
  return refresh;
}

/** Where the focus is, in words that hold for a fresh copy of the part it is in; null where there are none. */
function focusIn(part) {
  const focused = document.activeElement;
  const owner = part.contains(focused) ? focused.closest("[id]") : null;
  if (!owner || !part.contains(owner)) {
    return null;
  }
  return { id: owner.id, index: owner === focused ? -1 : [...owner.querySelectorAll(ABLE)].indexOf(focused) };
}

function focus({ id, index }) {
  const owner = document.getElementById(id);
  const found = index < 0 ? owner : owner?.querySelectorAll(ABLE)[index];
  found?.focus({ preventScroll: true });
}

function replace(fresh) {
  for (const old of document.querySelectorAll("[data-refresh]")) {
    const now = part(fresh, old.dataset.refresh);
    if (!now) {
      continue;
    }
    for (const open of old.querySelectorAll("details[id]")) {
      const same = now.querySelector(`#${CSS.escape(open.id)}`);
      if (same) {
        same.open = open.open;
      }
    }
    const focused = focusIn(old);
    old.replaceWith(now);
    if (focused) {
      focus(focused);
    }
  }
}
