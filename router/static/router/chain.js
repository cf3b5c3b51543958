// The chain of one role, edited on the page and saved as a whole.

import { hook, make, show, write } from "../mh/dom.js";
import { announce } from "../mh/form.js";
import { renderAvailability } from "./availability.js";

export class Chain {
  /** `models` has provider, model and availability by id; `onchange` is called after each change. */
  constructor(form, role, models, onchange) {
    this.form = form;
    this.role = role;
    this.models = models;
    this.onchange = onchange;
    this.list = hook(form, "chain");
    this.select = hook(form, "add");
    this.before = this.ids().join("\n");
    this.list.addEventListener("click", (event) => this.pressed(event));
    this.list.addEventListener("keydown", (event) => this.typed(event));
    this.form.querySelector("[data-do=add]").addEventListener("click", (event) => {
      event.preventDefault();
      this.add(this.select.value);
    });
    this.makeDraggable();
  }

  rows() {
    return [...this.list.querySelectorAll("[data-link]")];
  }

  ids() {
    return this.rows().map((row) => row.dataset.link);
  }

  get isChanged() {
    return this.ids().join("\n") !== this.before;
  }

  pressed(event) {
    const button = event.target.closest("button[data-do]");
    if (button) {
      event.preventDefault();
      this.act(button.dataset.do, button.closest("[data-link]"));
    }
  }

  /** Alt and an arrow move a model as its buttons do. */
  typed(event) {
    const way = { ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (event.altKey && way) {
      event.preventDefault();
      this.act(way, event.target.closest("[data-link]"));
    }
  }

  act(what, row) {
    if (what === "remove") {
      this.remove(row);
    } else {
      this.move(row, what);
    }
  }

  move(row, way) {
    const next = way === "up" ? row.previousElementSibling : row.nextElementSibling;
    if (!next) {
      return;
    }
    next[way === "up" ? "before" : "after"](row);
    this.changed();
    const button = row.querySelector(`[data-do=${way}]`);
    (button.disabled ? row.querySelector("[data-do]:not(:disabled)") : button).focus();
    this.say(row);
  }

  say(row) {
    const place = this.rows().indexOf(row) + 1;
    announce(`${row.dataset.link} is now ${place} of ${this.rows().length} in ${this.role}.`);
  }

  remove(row) {
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    this.changed();
    (neighbour?.querySelector("[data-do=remove]") ?? this.select).focus();
    announce(`${row.dataset.link} was taken out of ${this.role}.`);
  }

  add(id) {
    if (!id) {
      this.select.focus();
      return;
    }
    const row = document.getElementById("mh-link").content.firstElementChild.cloneNode(true);
    this.list.append(row);
    this.fill(row, id);
    this.changed();
    this.makeDraggable();
    this.select.focus();
    announce(`${id} was added to ${this.role}.`);
  }

  fill(row, id) {
    const { provider, model, availability } = this.models[id];
    row.dataset.link = id;
    row.querySelector("input").value = id;
    row.querySelector("[data-entry]").dataset.entry = id;
    write(hook(row, "link-id"), id);
    write(hook(row, "link-model"), model ? `${provider} · ${model}` : provider);
    const words = { up: `Move ${id} up`, down: `Move ${id} down`, remove: `Take ${id} out of the chain` };
    for (const button of row.querySelectorAll("[data-do]")) {
      button.setAttribute("aria-label", words[button.dataset.do]);
    }
    renderAvailability(row, availability);
  }

  changed() {
    const rows = this.rows();
    rows.forEach((row, place) => {
      write(hook(row, "place"), `${place + 1}`);
      row.querySelector("[data-do=up]").disabled = place === 0;
      row.querySelector("[data-do=down]").disabled = place === rows.length - 1;
    });
    const taken = new Set(this.ids());
    const free = Object.keys(this.models).filter((id) => !taken.has(id));
    const nothing = this.select.options[0];
    this.select.replaceChildren(nothing, ...free.map((id) => make("option", { value: id }, id)));
    show(hook(this.form, "chain-empty"), rows.length === 0);
    this.onchange();
  }

  /** Rows can be dragged, too. */
  makeDraggable() {
    for (const row of this.rows()) {
      row.draggable = true;
    }
    if (this.dragged !== undefined) {
      return;
    }
    this.dragged = null;
    this.list.addEventListener("dragstart", (event) => {
      this.dragged = event.target.closest("[data-link]");
      event.dataTransfer.effectAllowed = "move";
    });
    this.list.addEventListener("dragover", (event) => {
      const over = event.target.closest("[data-link]");
      if (!this.dragged || !over) {
        return;
      }
      event.preventDefault();
      const { top, height } = over.getBoundingClientRect();
      if (over !== this.dragged) {
        over[event.clientY < top + height / 2 ? "before" : "after"](this.dragged);
      }
    });
    this.list.addEventListener("dragend", () => {
      const row = this.dragged;
      this.dragged = null;
      if (row) {
        this.changed();
        this.say(row);
      }
    });
  }
}
