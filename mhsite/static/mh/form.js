// A form of the server's, sent to the REST API: its fields are called as in the body (`options.temperature`), and so
// is an error's `param`. Without JavaScript the same form is posted, and the server makes the same body of it.

import { call } from "./api.js";
import { hook, tell, write } from "./dom.js";

const WORDS = { true: true, false: false };
const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const READ = {
  number: (text) => (Number.isNaN(Number(text)) ? text : Number(text)),
  integer: (text) => (Number.isNaN(Number(text)) ? text : Number(text)),
  choice: (text) => WORDS[text] ?? text,
  lines: linesOf,
  pairs: (text) =>
    Object.fromEntries(linesOf(text).map((line) => [line.split("=", 1)[0].trim(), line.split("=").slice(1).join("=").trim()])),
  text: (text) => text,
  secret: (text) => text,
};
const EMPTY = { null: null, text: "" };

function isChanged(input) {
  if (input.tagName === "SELECT") {
    return [...input.options].some((option) => option.selected !== option.defaultSelected);
  }
  return input.type === "checkbox" ? input.checked !== input.defaultChecked : input.value !== input.defaultValue;
}

/** Whether something was typed or chosen that has not been sent. */
export const isDirty = (form) => [...form.querySelectorAll("[data-json]")].some(isChanged);

/** The body of a form; with `onlyChanged` what is as it came is left out. */
export function bodyOf(form, { onlyChanged = false } = {}) {
  const body = {};
  for (const input of form.querySelectorAll("[data-json]")) {
    const { json: kind, empty } = input.dataset;
    const steps = input.name.split(".");
    const last = steps.pop();
    const place = steps.reduce((at, step) => (at[step] ??= {}), body);
    if (kind === "many") {
      place[last] ??= [];
      place[last].push(...(input.checked ? [input.value] : []));
    } else if (!onlyChanged || isChanged(input)) {
      const text = kind === "secret" ? input.value : input.value.trim();
      const value = text ? READ[kind](text) : EMPTY[empty];
      if (value !== undefined) {
        place[last] = value;
      }
    }
  }
  return body;
}

/** Say what is wrong, at the field if it is one's, and put the focus there; without an error, take it away. */
export function showError(form, error = null) {
  for (const field of form.querySelectorAll("[data-field]")) {
    write(hook(field, "field-error"), "");
    field.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
  }
  tell(hook(form, "problem"), "");
  if (!error) {
    return;
  }
  const param = error.param ?? "";
  const field = [...form.querySelectorAll("[data-field]")].find(({ dataset: { field: name } }) =>
    param === name || param.startsWith(`${name}.`) || param.startsWith(`${name}[`),
  );
  if (!field) {
    tell(hook(form, "problem"), error.message);
    return;
  }
  const fold = field.closest("details");
  if (fold) {
    fold.open = true;
  }
  write(hook(field, "field-error"), error.message);
  const input = field.querySelector("input, select, textarea");
  input.setAttribute("aria-invalid", "true");
  input.focus();
}

/** Send with the buttons out of reach; resolves to the answer, or to null after the error was shown. */
export async function send(form, method, path, body) {
  const buttons = [...form.querySelectorAll("button")].filter((button) => !button.disabled);
  const focused = document.activeElement;
  const enable = () => buttons.forEach((button) => (button.disabled = false));
  showError(form);
  form.setAttribute("aria-busy", "true");
  buttons.forEach((button) => (button.disabled = true));
  try {
    return (await call(method, path, body)) ?? {};
  } catch (error) {
    enable();
    focused?.focus(); // a button out of reach has lost it
    showError(form, error);
    return null;
  } finally {
    enable();
    form.removeAttribute("aria-busy");
  }
}

/** What `data-api` of a form says: `PATCH /api/models/x`. */
export function target(form) {
  const [method, path] = form.dataset.api.split(" ");
  return { method, path };
}

/** Keep somebody from leaving with what they typed unsent. */
export function guard(form) {
  const ask = (event) => isDirty(form) && event.preventDefault();
  window.addEventListener("beforeunload", ask);
  return () => window.removeEventListener("beforeunload", ask);
}

/** Say something to who listens instead of looking. */
export function announce(text) {
  write(document.getElementById("mh-announce"), text);
}

/** Put the focus on a part of the page that was just renewed. */
export function focusOn(element) {
  element?.setAttribute("tabindex", "-1");
  element?.focus();
}

