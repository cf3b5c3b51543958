// The Tokens page: a new token is shown once, and copied.

import { hook, show, write } from "../mh/dom.js";
import { announce, bodyOf, send, target } from "../mh/form.js";
import { refreshed } from "../mh/refresh.js";
import { deletable } from "./rows.js";

const form = document.querySelector("form[data-api]");
const made = document.getElementById("mh-made");
const shown = hook(made, "made");

function asked() {
  const { expires_days: days, ...body } = bodyOf(form);
  return { ...body, expires_days: days === "never" ? null : Number(days) };
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { method, path } = target(form);
  const answer = await send(form, method, path, asked());
  if (!answer) {
    return;
  }
  write(hook(made, "made-name"), answer.name);
  shown.value = answer.token;
  show(made, true);
  form.reset();
  hook(made, "copy").focus();
  made.scrollIntoView({ block: "center" });
  announce(`The token ${answer.name} was created. Copy it now: it is not shown again.`);
  await refreshed("tokens");
});

hook(made, "copy").addEventListener("click", async () => {
  shown.select();
  try {
    await navigator.clipboard.writeText(shown.value);
  } catch {
    document.execCommand("copy"); // over plain HTTP, from another machine
  }
  announce("Copied.");
  const button = hook(made, "copy");
  write(button, "Copied");
  setTimeout(() => write(button, "Copy"), 2000);
});
deletable("tokens");
