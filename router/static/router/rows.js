// Rows of a list with a button that deletes: a question first, then the REST API, then the list anew.

import { call } from "../mh/api.js";
import { confirmed } from "../mh/confirm.js";
import { tell } from "../mh/dom.js";
import { announce, focusOn } from "../mh/form.js";
import { refreshed } from "../mh/refresh.js";

const problem = document.getElementById("mh-problem");

export function complain(error) {
  tell(problem, error?.message ?? "");
  if (error) {
    problem.scrollIntoView({ block: "center" });
  }
}

/** Renew a part of the page and put the focus on it. */
export async function renew(part, said) {
  const [fresh] = await refreshed(part);
  focusOn(fresh);
  announce(said);
}

/** Forms marked `data-delete` ask, delete, and renew `part`. */
export function deletable(part, ondeleted = () => {}) {
  document.getElementById("mh").addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-delete]")) {
      return;
    }
    event.preventDefault();
    const { delete: path, question, action, done } = form.dataset;
    complain(null);
    if (!(await confirmed(question, action))) {
      return;
    }
    try {
      await call("DELETE", path);
      ondeleted(form);
      await renew(part, done);
    } catch (error) {
      complain(error);
    }
  });
}
