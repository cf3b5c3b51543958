// The Roles page: chains edited in place, models deleted, availability kept true, and one prompt to try them.

import { call } from "../mh/api.js";
import { confirmed } from "../mh/confirm.js";
import { hook, show } from "../mh/dom.js";
import { announce, bodyOf, focusOn, isDirty, send } from "../mh/form.js";
import { refreshed } from "../mh/refresh.js";
import { renderAvailability, watchAvailability } from "./availability.js";
import { Chain } from "./chain.js";
import { complain, deletable } from "./rows.js";
import { Trial } from "./trial.js";

const { scope, models, own } = JSON.parse(document.getElementById("mh-config").textContent);
const trial = new Trial(document.getElementById("mh-trial"));
const cards = new Map();

/** One role's card. */
class Card {
  constructor(root) {
    this.root = root;
    this.name = root.dataset.role;
    this.path = `/api/roles/${encodeURIComponent(this.name)}?scope=${scope}`;
    this.form = hook(root, "role-form");
    this.chain = new Chain(this.form, this.name, models, () => this.render());
    this.form.addEventListener("input", () => this.render());
    this.form.addEventListener("submit", (event) => this.submit(event));
    hook(this.form, "discard").addEventListener("click", () => this.renew(`${this.name} is as it was.`));
    this.render();
  }

  get isDirty() {
    return this.chain.isChanged || isDirty(this.form);
  }

  render() {
    const dirty = this.isDirty;
    this.root.toggleAttribute("data-dirty", dirty);
    show(hook(this.form, "save"), dirty);
    show(hook(this.form, "discard"), dirty);
  }

  submit(event) {
    event.preventDefault();
    if (event.submitter?.hasAttribute("data-unset")) {
      this.unset();
    } else if (this.isDirty) {
      this.save();
    }
  }

  async save() {
    const body = { chain: this.chain.ids(), ...bodyOf(this.form) };
    if (await send(this.form, "PUT", this.path, body)) {
      await this.renew(`${this.name} was saved.`);
    }
  }

  async unset() {
    const then = scope === "mine" ? "the site's answers for you again" : "the active backend answers for it";
    if (!(await confirmed(`Forget what is set for ${this.name}? Then ${then}.`, "Forget it"))) {
      return;
    }
    if (await send(this.form, "DELETE", this.path)) {
      await this.renew(`${this.name} is as it was before anything was set.`);
    }
  }

  async renew(said) {
    const [root] = await refreshed(`role-${this.name}`, "models");
    cards.delete(this.name);
    if (root) {
      cards.set(this.name, new Card(root));
    }
    announce(said);
    focusOn(root ?? document.getElementById("roles-title"));
  }
}

function renderAll({ models: rows, roles }) {
  for (const row of rows) {
    models[row.id] = { provider: row.provider, model: row.model, availability: row.availability };
  }
  for (const element of document.querySelectorAll("[data-entry]")) {
    const known = models[element.dataset.entry];
    if (known) {
      renderAvailability(element, known.availability);
    }
  }
  for (const role of roles) {
    renderRole(role);
  }
}

function renderRole({ name, links, available }) {
  const tag = document.querySelector(`[data-role="${CSS.escape(name)}"] [data-role-state]`);
  const states = links.map((link) => link.availability);
  const state = states.find((one) => one.state === "available") ?? states[0];
  if (tag) {
    renderAvailability(tag, state ?? { state: available ? "available" : "backend off", message: "" });
  }
}

/** Who would be asked now: what is saved, and one's own before the site's. */
async function chainOf(kind, name) {
  if (kind === "role") {
    return (await call("GET", `/api/roles/${encodeURIComponent(name)}`)).links;
  }
  const { id, availability } = await call("GET", `/api/models/${name.split("/").map(encodeURIComponent).join("/")}`);
  return [{ id, availability }];
}

document.getElementById("mh").addEventListener("click", async (event) => {
  const button = event.target.closest("[data-trial]");
  if (!button) {
    return;
  }
  const { trial: name, trialKind: kind } = button.dataset;
  complain(null);
  try {
    trial.open(kind, name, await chainOf(kind, name), own.includes(name) && scope === "site");
  } catch (error) {
    complain(error);
  }
});
deletable("models", (form) => {
  delete models[form.closest("[data-model]").dataset.model];
  cards.forEach((card) => card.chain.changed());
});
window.addEventListener("beforeunload", (event) => {
  if ([...cards.values()].some((card) => card.isDirty)) {
    event.preventDefault();
  }
});
for (const root of document.querySelectorAll("[data-role]")) {
  cards.set(root.dataset.role, new Card(root));
}
watchAvailability(scope, renderAll);
