// Whom one can ask: what is active, roles, models of the registry, and what the engines serve by its own name.

import { call } from "../mh/api.js";
import { make } from "../mh/dom.js";

const OFF = { "backend off": "off", "not installed": "not installed", "needs credentials": "needs credentials" };

export class Targets {
  constructor({ roles, models, served }) {
    this.active = null;
    /** How often was asked: only the newest answer counts, whichever comes last. */
    this.asked = 0;
    this.take(roles, models, served);
  }

  take(roles, models, served) {
    this.models = new Map(models.map((model) => [model.id, model]));
    this.roles = new Map(roles.map((role) => [role.name, role]));
    // Names of the registry are in the lists above.
    this.served = served.filter(({ owned_by: owner }) => owner !== "mh");
  }

  /** Ask the site again: what runs has changed. Roles are for whom they are for, so no socket brings them. */
  async refresh() {
    const asked = ++this.asked;
    const [roles, models, served] = await Promise.all([
      call("GET", "/api/roles?limit=1000"),
      call("GET", "/api/models?limit=1000"),
      call("GET", "/v1/models"),
    ]);
    if (asked === this.asked) {
      this.take(roles.results, models.results, served.data);
    }
  }

  /** Return what of a request names `value`: `{role}`, `{model}`, or nothing for whatever is active. */
  request(value) {
    const [kind, name] = split(value);
    return kind ? { [kind]: name } : {};
  }

  /** Return a short name for a person. */
  name(value) {
    const [kind, name] = split(value);
    return kind ? name : "whatever is active";
  }

  /** Return why `value` cannot answer now, as a sentence; empty when it can. */
  problem(value) {
    const why = this.whyNot(value);
    return why && this.active?.isComing ? "The engine is not there yet: what you ask waits for it." : why;
  }

  whyNot(value) {
    const [kind, name] = split(value);
    if (!kind) {
      return this.active?.running === false ? "Nothing is running now." : "";
    }
    if (kind === "role") {
      return this.roleProblem(name);
    }
    const model = this.models.get(name);
    if (model) {
      return model.availability.message;
    }
    return this.served.some(({ id }) => id === name) ? "" : `${name} is not served now.`;
  }

  roleProblem(name) {
    const role = this.roles.get(name);
    if (!role) {
      return `There is no role ${name} any more.`;
    }
    return role.available ? "" : (role.links.find(({ availability }) => availability.message)?.availability.message ?? "Nothing is running now.");
  }

  /** Say who answers instead of the first of a role's chain; empty when it is that one. */
  fallback(value, from) {
    const [kind, name] = split(value);
    const [first] = (kind === "role" && this.roles.get(name)?.chain) || [];
    const wanted = first && this.models.get(first);
    if (!wanted || !from) {
      return "";
    }
    const other =
      (wanted.model && wanted.model !== from.model) || !["active", from.provider, from.backend].includes(wanted.provider);
    return other ? `instead of ${first}` : "";
  }

  /** Say whether the registry knows that `value` takes no images. */
  isBlind(value) {
    const [kind, name] = split(value);
    const ids = kind === "role" ? (this.roles.get(name)?.chain ?? []) : [name];
    const known = ids.map((id) => this.models.get(id)?.capabilities ?? []).filter((list) => list.length);
    return known.length > 0 && known.length === ids.length && known.every((list) => !list.includes("vision"));
  }

  /** Fill a `<select>`, keeping what is chosen even where it is gone. */
  fill(select, value) {
    const active = this.active?.model ? `Whatever is active · ${this.active.model}` : "Whatever is active";
    const groups = [
      make("option", { value: "" }, active),
      group("Roles", [...this.roles.values()].map((role) => option(`role:${role.name}`, role.name, role.available ? "" : "off"))),
      group("Models of the registry", [...this.models.values()].map((model) => option(`model:${model.id}`, model.id, OFF[model.availability.state]))),
      group("Served now", this.served.map(({ id, owned_by: owner }) => option(`model:${id}`, `${id} (${owner})`))),
    ].filter(Boolean);
    select.replaceChildren(...groups);
    select.value = value;
    if (select.value !== value) {
      select.append(option(value, this.name(value), "gone"));
      select.value = value;
    }
  }
}

function split(value) {
  const at = value.indexOf(":");
  return at < 0 ? ["", ""] : [value.slice(0, at), value.slice(at + 1)];
}

const option = (value, text, why = "") => make("option", { value }, why ? `${text} · ${why}` : text);
const group = (label, options) => options.length > 0 && make("optgroup", { label }, ...options);
