// What to do about an error of a chat, beyond what its message says.

import { make } from "../mh/dom.js";

const OTHER = "Choose somebody else above, or try again later.";
const HINTS = {
  connection_lost: "The page reconnects by itself; then ask again.",
  context_length_exceeded: "Clear the conversation, or ask for a shorter answer in its settings.",
  max_tokens_too_large: "Lower the longest answer in the settings.",
  model_not_found: "Choose somebody else above.",
  needs_credentials: OTHER,
  circuit_open: OTHER,
  not_supported: "Choose somebody else above, or take it out.",
};
/** Codes of errors that mean that no engine runs. */
const NOT_RUNNING = new Set(["backend_not_running", "no_route", "engine_not_installed", "model_not_served", "no_engine", "model_not_installed"]);

/** Return text or an element that says what to do; nothing where the message says all. */
export function hintFor(error, { backendUrl, mayOperate }) {
  if (NOT_RUNNING.has(error.code)) {
    return mayOperate ? make("a", { class: "mh-link", href: backendUrl }, "Go to the engines") : "Its owner can start it.";
  }
  if (error.param?.startsWith("options")) {
    return "It is in the settings of this conversation.";
  }
  return HINTS[error.code] ?? "";
}
