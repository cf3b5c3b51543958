// The Providers page: stored credentials tried, accounts removed.

import { call } from "../mh/api.js";
import { complain, deletable, renew } from "./rows.js";

deletable("accounts");
document.getElementById("mh").addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-check]")) {
    return;
  }
  event.preventDefault();
  const button = form.querySelector("button");
  complain(null);
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  button.textContent = "Testing…";
  try {
    const { name, check } = await call("POST", form.dataset.check);
    await renew("accounts", `${name}: ${check.message}`);
  } catch (error) {
    button.textContent = "Test";
    button.disabled = false;
    button.removeAttribute("aria-busy");
    complain(error);
  }
});
