// The audit page: the newest events come by themselves, and the chain is checked without leaving the page.

import { call } from "../mh/api.js";
import { hook, tell } from "../mh/dom.js";
import { live } from "../mh/live.js";
import { refresher } from "../mh/refresh.js";

if (document.querySelector("[data-newest=true]")) {
  const refresh = refresher();
  live.on("change", refresh);
  live.on("operation", refresh);
}

hook(document, "verify").addEventListener("click", async (event) => {
  event.preventDefault();
  const button = event.target;
  const said = hook(document, "checked");
  button.setAttribute("aria-busy", "true");
  tell(said, "Checking every event…");
  said.classList.remove("mh-notice--error");
  try {
    const report = await call("GET", "/api/audit/verify");
    said.classList.toggle("mh-notice--error", !report.ok);
    tell(
      said,
      report.ok
        ? `The chain is whole: ${report.checked} events checked. Head ${report.head}`
        : `The chain is broken at event ${report.first_bad}: ${report.reason}`,
    );
  } catch (error) {
    said.classList.add("mh-notice--error");
    tell(said, error.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
});
