// What happens when the site comes up; and commands to copy.

import { call } from "../mh/api.js";
import { hook, tell, write } from "../mh/dom.js";

/** Send the form without leaving the page. */
export function watchStartup(form) {
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = hook(form, "said");
    const problem = hook(form, "form-error");
    write(said, "");
    tell(problem, "");
    const boxes = [...form.querySelectorAll("input[name=auto_start]")];
    try {
      await call("PATCH", "/api/llm-backend/startup", {
        behavior: new FormData(form).get("behavior") ?? undefined,
        auto_start: Object.fromEntries(boxes.map((box) => [box.value, box.checked])),
      });
      write(said, "Saved.");
    } catch (error) {
      tell(problem, error.message);
    }
  });
  form?.addEventListener("change", () => write(hook(form, "said"), ""));
}

/** Buttons beside commands. Where the browser gives no clipboard, the command is selected instead. */
export function watchCopies(root) {
  for (const button of root.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = hook(button.parentElement, "copy-text");
      try {
        await navigator.clipboard.writeText(text.textContent);
        write(button, "Copied");
      } catch {
        window.getSelection().selectAllChildren(text);
        write(button, "Selected");
      }
      setTimeout(() => write(button, "Copy"), 2000);
    });
  }
}
