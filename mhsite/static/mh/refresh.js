// Parts of a page, asked for again and put in place: for lists that the server writes.

import { call } from "./api.js";

/** Milliseconds within which several reasons to refresh are one. */
const TOGETHER = 250;

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
 * What is unfolded stays unfolded, and the focus stays where it was, where elements have ids.
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
  return refresh;
}

function replace(fresh) {
  const focused = document.activeElement?.id;
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
    old.replaceWith(now);
  }
  if (focused) {
    document.getElementById(focused)?.focus();
  }
}
