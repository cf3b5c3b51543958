// A dialog that shows what would change, before it does.

import { hook, make, show, tell, write } from "../mh/dom.js";

/** One changed option: `before → after`, and whether it takes a restart. */
export function changeLine({ title, before, after, restart }) {
  const name = make("span", { class: "mh-change__name" }, title);
  if (restart) {
    name.append(
      " ",
      make(
        "span",
        { class: "mh-opt__restart", title: "Takes effect with a restart" },
        make("span", { "aria-hidden": "true" }, "↻"),
        make("span", { class: "mh-hidden" }, "takes effect with a restart"),
      ),
    );
  }
  return make(
    "li",
    { class: "mh-change" },
    name,
    make(
      "span",
      { class: "mh-change__values" },
      make("del", {}, before),
      " ",
      make("span", { "aria-hidden": "true" }, "→"),
      make("span", { class: "mh-hidden" }, "becomes"),
      " ",
      make("ins", {}, after),
    ),
  );
}

export class DiffDialog {
  constructor(root) {
    this.root = root;
    this.run = async () => {};
    this.box = hook(root, "diff-apply-box");
    hook(root, "diff-go").addEventListener("click", () => this.go());
  }

  /** `run(apply)` does it; what it throws is shown, and the dialog stays. */
  open({ title, lead = "", changes, note = "", apply = false, go, run }) {
    const { root } = this;
    this.run = run;
    this.box.checked = apply;
    write(hook(root, "diff-title"), title);
    tell(hook(root, "diff-lead"), lead);
    tell(hook(root, "diff-note"), note);
    tell(hook(root, "diff-error"), "");
    show(hook(root, "diff-apply"), apply);
    hook(root, "diff-changes").replaceChildren(make("ul", { class: "mh-changes" }, ...changes));
    write(hook(root, "diff-go"), go);
    root.showModal();
    hook(root, "diff-go").focus();
  }

  close() {
    this.root.close();
  }

  async go() {
    const button = hook(this.root, "diff-go");
    if (button.getAttribute("aria-busy") === "true") {
      return;
    }
    button.setAttribute("aria-busy", "true");
    tell(hook(this.root, "diff-error"), "");
    try {
      await this.run(this.box.checked);
      this.close();
    } catch (error) {
      tell(hook(this.root, "diff-error"), error.message);
    } finally {
      button.removeAttribute("aria-busy");
    }
  }
}
