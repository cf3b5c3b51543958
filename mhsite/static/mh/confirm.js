// A question before what cannot be taken back.

import { make } from "./dom.js";

/** Resolves to whether `action` was chosen. The browser puts the focus back where it was. */
export function confirmed(question, action) {
  const yes = make("button", { class: "mh-button mh-button--danger", value: "yes" }, action);
  const no = make("button", { class: "mh-button", value: "no", autofocus: "" }, "Keep it");
  const text = make("p", { id: "mh-question" }, question);
  const form = make("form", { method: "dialog" }, text, make("div", { class: "mh-dialog__actions" }, no, yes));
  const dialog = make("dialog", { class: "mh-dialog mh-dialog--small", "aria-labelledby": "mh-question" }, form);
  document.getElementById("mh").append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}
