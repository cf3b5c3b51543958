// The options of the chosen backend: changed, planned, compared, saved, applied, and put back.

import { call } from "../mh/api.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { bytes } from "../mh/format.js";
import { refresher } from "../mh/refresh.js";
import { changeLine, DiffDialog } from "./diff.js";
import { Option } from "./options.js";
import { PlanView } from "./plan.js";

const RUNNING = new Set(["ready", "degraded"]);

export class Configuration {
  /** `config` is made by backends/pages/configuration.py. */
  constructor(root, config, { announce }) {
    this.root = root;
    this.config = config;
    this.announce = announce;
    this.url = `/api/llm-backend/${config.backend}`;
    this.revision = config.revision;
    this.secrets = config.secrets;
    this.running = false;
    this.busy = false;
    /** Whether the notice about somebody else's change is up. */
    this.moved = !hook(root, "moved").hidden;
    this.form = hook(root, "options");
    this.options = new Map();
    for (const about of config.fields) {
      const place = this.form.querySelector(`[data-option="${CSS.escape(about.name)}"]`);
      this.options.set(about.name, new Option(place, about, config.values[about.name]));
    }
    this.plan = new PlanView(hook(root, "plan"), {
      url: this.url,
      titles: config.titles,
      verdicts: config.verdicts,
      suggest: (options) => this.suggest(options),
      problems: (found) => this.problems(found),
    });
    this.dialog = new DiffDialog(hook(document, "diff"));
    this.refresh = refresher();
    this.listen();
    this.edited();
  }

  listen() {
    this.form.addEventListener("input", () => this.edited());
    this.form.addEventListener("change", () => this.edited());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.review(event.submitter === hook(this.form, "apply"));
    });
    hook(this.form, "discard").addEventListener("click", () => this.discard());
    hook(this.root, "moved-reload").addEventListener("click", (event) => {
      event.preventDefault();
      this.adopt(false);
    });
    hook(this.root, "moved-keep").addEventListener("click", () => this.adopt(true));
    document.addEventListener("submit", (event) => this.submitted(event));
    window.addEventListener("beforeunload", (event) => {
      if (this.dirty.length && !this.leaving) {
        event.preventDefault();
      }
    });
    for (const tab of this.root.querySelectorAll("[data-tab]")) {
      tab.addEventListener("click", (event) => this.leave(event, tab.href));
    }
  }

  get dirty() {
    return [...this.options.values()].filter((option) => option.isChanged);
  }

  /** After every key: the marks, the bar and the plan. */
  edited() {
    for (const option of this.options.values()) {
      option.render();
      if (option.isChanged || hook(option.root, "error").textContent) {
        option.check();
      }
    }
    for (const group of this.form.querySelectorAll(".mh-group")) {
      const names = [...group.querySelectorAll("[data-option]")].map((place) => place.dataset.option);
      const changed = names.filter((name) => this.options.get(name).isChanged).length;
      group.classList.toggle("mh-group--changed", changed > 0);
    }
    this.renderModel();
    this.renderBar();
    const bad = this.dirty.some((option) => hook(option.root, "error").textContent);
    if (!bad) {
      this.plan.ask(this.changes({ secrets: false }));
    }
  }

  renderBar() {
    const { dirty, running } = this;
    const count = dirty.length;
    const { title } = this.config;
    const idle = running ? "No unsaved changes." : `No unsaved changes. ${title} does not run: what is saved counts from its next start.`;
    write(hook(this.form, "bar-text"), count ? `${count} unsaved ${count === 1 ? "change" : "changes"}` : idle);
    hook(this.form, "bar").dataset.dirty = count ? "yes" : "no";
    show(hook(this.form, "discard"), count > 0, () => hook(this.form, "save"));
    hook(this.form, "save").disabled = !count || this.busy;
    hook(this.form, "apply").disabled = !count || !running || this.busy;
  }

  renderModel() {
    const option = this.options.get("model");
    const place = option && hook(option.root, "model-facts");
    if (!place) {
      return;
    }
    const found = this.config.models.find(({ id }) => id === option.inputs[0].value.trim());
    const facts = found && [bytes(found.size), found.quantization, found.context && `${found.context} tokens`];
    write(place, found ? `${facts.filter(Boolean).join(" · ")}${found.problem ? `. ${found.problem}` : ""}` : "");
    show(place, Boolean(found));
  }

  changes({ secrets = true } = {}) {
    const wanted = this.dirty.filter(({ about }) => secrets || !about.secret);
    return Object.fromEntries(wanted.map((option) => [option.name, option.change]));
  }

  /** Put values into the form that the plan suggests. */
  suggest(options) {
    for (const [name, value] of Object.entries(options)) {
      const option = this.options.get(name);
      option?.put(value);
      option?.root.closest("details")?.setAttribute("open", "");
    }
    this.edited();
    this.options.get(Object.keys(options)[0])?.inputs[0].focus();
  }

  /** What stands against a start, at the options that are to blame. */
  problems(found) {
    for (const option of this.options.values()) {
      const mine = found.find(({ option: name }) => name === option.name);
      if (option.check()) {
        option.say(mine ? mine.message : "");
      }
    }
  }

  discard() {
    for (const option of this.options.values()) {
      option.restore();
      option.say("");
    }
    this.edited();
    this.announce("Changes discarded.");
  }

  // --- saving -------------------------------------------------------------------------------------

  review(apply) {
    const wrong = this.dirty.find((option) => !option.check());
    if (wrong) {
      wrong.root.closest("details").open = true;
      wrong.inputs[0].focus();
      return;
    }
    if (!this.dirty.length) {
      return;
    }
    const { title } = this.config;
    const restarts = this.dirty.some(({ about }) => about.restart);
    this.dialog.open({
      title: apply ? `Apply to ${title}` : `Save for ${title}`,
      lead: this.leadOf(apply, restarts),
      changes: this.dirty.map((option) => {
        const [before, after] = option.difference(this.secrets[option.name]);
        return changeLine({ title: option.about.title, before, after, restart: option.about.restart });
      }),
      go: apply && restarts ? "Apply & Restart" : apply ? "Apply" : "Save",
      run: () => this.save(apply),
    });
  }

  leadOf(apply, restarts) {
    if (!this.running) {
      return "It does not run: this counts from its next start.";
    }
    if (!restarts) {
      return "None of this needs a restart: it counts at once.";
    }
    return apply
      ? "It is restarted, or loads the model, as far as that is needed. Requests wait meanwhile. Where that fails, what ran before runs again."
      : "It keeps running with what it was started with.";
  }

  async save(apply) {
    const options = this.changes();
    await this.send("PATCH", `${this.url}/config`, { options, apply, revision: this.revision });
    this.announce(apply ? "Saved, and being applied." : "Saved.");
  }

  /** Send a change of the options; what comes back is what the form begins from. */
  async send(method, path, data) {
    this.busy = true;
    this.renderBar();
    try {
      this.took(await call(method, path, data));
      this.refresh();
    } catch (error) {
      if (error.code === "configuration_moved") {
        this.dialog.close();
        await this.sayMoved();
        return;
      }
      if (error.param?.startsWith("options.")) {
        const option = this.options.get(error.param.slice("options.".length).split(".")[0]);
        option?.say(error.message);
      }
      throw error;
    } finally {
      this.busy = false;
      this.renderBar();
    }
  }

  took({ options, secrets, revision }) {
    this.revision = revision;
    this.secrets = secrets;
    hook(this.form, "revision").value = String(revision);
    for (const option of this.options.values()) {
      option.saved = options[option.name];
      option.restore();
      this.renderSecret(option);
    }
    this.moved = false;
    show(hook(this.root, "moved"), false);
    this.edited();
  }

  renderSecret(option) {
    if (option.about.secret) {
      option.inputs[0].placeholder = this.secrets[option.name] ? "Set. Write a new one to replace it." : "Not set";
    }
  }

  // --- somebody else ------------------------------------------------------------------------------

  render(status) {
    const entry = status.available[this.config.backend];
    this.running = RUNNING.has(entry?.state);
    this.renderBar();
    if (entry && entry.revision > this.revision && !this.busy && !this.moved) {
      this.moved = true;
      this.refresh();
      if (this.dirty.length) {
        this.sayMoved();
      } else {
        this.adopt(false);
      }
    }
  }

  renderOperation({ backend, state }) {
    if (backend === this.config.backend && state !== "running" && state !== "queued") {
      this.refresh();
      this.plan.again();
    }
  }

  /** Say who changed what meanwhile, and offer to read it. */
  async sayMoved() {
    this.moved = true;
    const place = hook(this.root, "moved");
    const { by, changes } = await this.since();
    write(hook(place, "moved-text"), `${by} changed the options of ${this.config.title} while you did:`);
    hook(place, "moved-changes").replaceChildren(make("ul", { class: "mh-changes" }, ...changes));
    show(hook(place, "moved-keep"), true);
    show(place, true);
    place.scrollIntoView({ block: "nearest" });
  }

  async since() {
    const { results } = await call("GET", `${this.url}/revisions`);
    const rows = results.filter(({ number }) => number > this.revision).reverse();
    const names = [...new Set(rows.map((row) => row.created_by).filter(Boolean))];
    const changes = rows.flatMap((row) => row.changes).map((change) => this.changeLine(change));
    return { by: names.join(" and ") || "Somebody", changes };
  }

  changeLine({ option: name, secret, before, after }) {
    const option = this.options.get(name);
    const word = (value) => (secret ? (value ? "set" : "not set") : (option?.words(value) ?? String(value)));
    const [was, is] = secret && before && after ? ["set", "replaced"] : [word(before), word(after)];
    return changeLine({ title: option?.about.title ?? name, before: was, after: is, restart: option?.about.restart ?? false });
  }

  /** Begin from what the others have made of it; with `keep`, what was changed here goes on top. */
  async adopt(keep) {
    try {
      const mine = keep ? this.dirty.map((option) => [option, option.about.secret ? option.inputs[0].value : option.value]) : [];
      const { by } = await this.since();
      this.took(await call("GET", `${this.url}/config`));
      for (const [option, value] of mine) {
        option.put(value);
      }
      this.edited();
      this.announce(keep ? "Your changes are on top of theirs. They are not saved yet." : `The options as ${by} changed them.`);
    } catch (error) {
      tell(hook(this.form, "form-error"), error.message);
    }
  }

  // --- history, and leaving -----------------------------------------------------------------------

  submitted(event) {
    const form = event.target;
    if (form.matches("[data-restore]")) {
      event.preventDefault();
      this.reviewRestore(form);
    } else if (form.matches("[data-pending]")) {
      event.preventDefault();
      this.applyPending(form);
    }
  }

  reviewRestore(form) {
    const number = form.dataset.restore;
    const lines = hook(form, "restoring").content.cloneNode(true).querySelectorAll("li");
    this.dialog.open({
      title: `Go back to revision ${number} of ${this.config.title}`,
      lead: this.dirty.length ? "What you have changed in the form and not saved is lost." : "",
      changes: [...lines],
      note: "Secrets stay as they are. This is a new revision: it can be undone the same way.",
      apply: this.running,
      go: "Restore",
      run: async (apply) => {
        await this.send("POST", `${this.url}/revisions/${number}/restore`, { apply, revision: this.revision });
        this.announce(`Revision ${number} is restored.`);
      },
    });
  }

  async applyPending(form) {
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await call("PATCH", `${this.url}/config`, { options: {}, apply: true });
    } catch (error) {
      tell(hook(this.form, "form-error"), error.message);
    } finally {
      button.disabled = false;
    }
  }

  leave(event, href) {
    if (!this.dirty.length || event.metaKey || event.ctrlKey || event.shiftKey) {
      return;
    }
    event.preventDefault();
    const dialog = hook(document, "leave");
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        if (dialog.returnValue === "leave") {
          this.leaving = true;
          window.location.assign(href);
        }
      },
      { once: true },
    );
    dialog.showModal();
  }
}
