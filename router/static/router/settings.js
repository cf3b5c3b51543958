// The settings of one conversation: system prompt, options, tools.

import { hook, tell, write } from "../mh/dom.js";

const NAMES = { temperature: "temperature", top_p: "top p", max_tokens: "at most", seed: "seed", think: "thinking", format: "format" };
const THINK = { true: true, false: false };

export class Settings {
  constructor(root, conversation, onchange) {
    this.root = root;
    this.conversation = conversation;
    this.onchange = onchange;
    this.system = hook(root, "system");
    this.tools = hook(root, "tools");
    this.fields = [...root.querySelectorAll("[data-option]")];
    root.addEventListener("input", () => this.changed());
    this.show();
  }

  show() {
    const { system, options, tools } = this.conversation;
    this.system.value = system;
    this.tools.value = tools;
    for (const field of this.fields) {
      field.value = options[field.dataset.option] ?? "";
    }
    this.summarise();
  }

  changed() {
    this.conversation.system = this.system.value;
    this.conversation.tools = this.tools.value;
    this.conversation.options = Object.fromEntries(
      this.fields.filter((field) => field.value !== "" && field.validity.valid).map((field) => [field.dataset.option, field.value]),
    );
    tell(hook(this.root, "tools-error"), this.toolsProblem());
    this.summarise();
    this.onchange();
  }

  summarise() {
    const { system, options, tools } = this.conversation;
    const set = Object.entries(options).map(([name, value]) => `${NAMES[name] ?? name} ${value}`);
    const parts = [system.trim() && "system prompt", ...set, tools.trim() && "tools"].filter(Boolean);
    write(hook(this.root, "settings-summary"), parts.join(", "));
  }

  toolsProblem() {
    if (!this.tools.value.trim()) {
      return "";
    }
    try {
      const tools = JSON.parse(this.tools.value);
      return Array.isArray(tools) && tools.length ? "" : "Tools are a list: [{…}].";
    } catch (error) {
      return `This is not JSON: ${error.message}.`;
    }
  }

  /** Open the settings at what is wrong with them; returns whether anything is. */
  complain() {
    const bad = this.fields.find((field) => !field.validity.valid) ?? (this.toolsProblem() ? this.tools : null);
    if (bad) {
      this.root.open = true;
      bad.focus();
      bad.reportValidity?.();
    }
    return Boolean(bad);
  }

  /** Return what they add to a request. */
  request() {
    const { think, format, ...numbers } = this.conversation.options;
    const options = Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, Number(value)]));
    if (think) {
      options.think = THINK[think] ?? think;
    }
    return {
      options,
      ...(format ? { format } : {}),
      ...(this.tools.value.trim() ? { tools: JSON.parse(this.tools.value) } : {}),
    };
  }
}
