// The form of an account: tried, or tried and saved.

import { hook, tell } from "../mh/dom.js";
import { bodyOf, guard, send, target } from "../mh/form.js";

const form = document.querySelector("form[data-api]");
const free = guard(form);
const isNew = !form.hasAttribute("data-changes");

function account(save) {
  const body = bodyOf(form, { onlyChanged: !isNew });
  const check = !save || !hook(form, "untried").checked;
  if (isNew) {
    // What is empty is not set.
    const given = Object.entries(body.settings ?? {}).filter(([, value]) => value !== null);
    return { ...body, kind: form.dataset.kind, settings: Object.fromEntries(given), check, save };
  }
  return { settings: body.settings ?? {}, check, save };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const save = event.submitter?.value !== "try";
  const { method, path } = target(form);
  tell(hook(form, "tried"), "");
  const answer = await send(form, method, path, account(save));
  if (answer && save) {
    free();
    window.location.assign(form.dataset.then);
  } else if (answer) {
    tell(hook(form, "tried"), answer.check.message);
  }
});
