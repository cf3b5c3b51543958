// The form of a model: sent to the REST API, with suggestions of the chosen provider only.

import { bodyOf, guard, send, target } from "../mh/form.js";

const form = document.querySelector("form[data-api]");
const list = document.getElementById("mh-models");
const known = [...list.options];
const provider = form.elements.provider;

function suggest() {
  list.replaceChildren(...known.filter((option) => option.dataset.provider === provider.value));
}

const free = guard(form);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { method, path } = target(form);
  if (await send(form, method, path, bodyOf(form))) {
    free();
    window.location.assign(form.dataset.then);
  }
});
provider.addEventListener("change", suggest);
suggest();
