// The options of the form: what stands in it, as the API has it, and the other way round.

import { hook, show, write } from "../mh/dom.js";

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);

/** One option; `about` is a field as backends/pages/option_fields.py describes it. */
export class Option {
  constructor(root, about, value) {
    this.root = root;
    this.about = about;
    this.name = about.name;
    /** What the site has; a default is said aloud. */
    this.saved = value;
    this.inputs = [...root.querySelectorAll("[data-input]")];
    this.slider = hook(root, "slider");
    this.clear = hook(root, "clear");
    this.slider?.addEventListener("input", () => {
      const [input] = this.inputs;
      input.value = this.slider.value;
      input.dispatchEvent(new Event("input", { bubbles: true }));
    });
    hook(root, "reset")?.addEventListener("click", () => {
      this.put(about.default);
      this.inputs[0].focus();
      this.inputs[0].dispatchEvent(new Event("input", { bubbles: true }));
    });
  }

  /** The value in the form: null where it is empty. Throws an Error with a sentence where it is none. */
  get value() {
    const { kind, pair } = this.about;
    const [input] = this.inputs;
    if (kind === "switch") {
      return input.checked;
    }
    if (kind === "gpus") {
      return this.gpus();
    }
    const text = input.value.trim();
    if (text === "") {
      if (input.validity?.badInput) {
        throw new Error("Write a number.");
      }
      return null;
    }
    if (kind === "choice") {
      return this.about.choices.find((choice) => String(choice) === text) ?? null;
    }
    if (kind === "number") {
      return this.number(Number(text));
    }
    if (kind === "lines") {
      return pair.length ? pairs(text, pair) : named(text);
    }
    return this.about.words.length && /^\d+$/.test(text) ? Number(text) : text;
  }

  gpus() {
    const boxes = this.inputs.filter(({ type }) => type === "checkbox");
    const numbers = boxes.length
      ? boxes.filter(({ checked }) => checked).map(({ value }) => Number(value))
      : this.inputs[0].value.split(/[\s,]+/).filter(Boolean).map(Number);
    if (numbers.some((number) => !Number.isInteger(number) || number < 0)) {
      throw new Error("Numbers of GPUs with commas between them: 0, 1.");
    }
    return numbers.length ? numbers : null;
  }

  number(value) {
    const { whole, minimum, above, most } = this.about;
    if (whole && !Number.isInteger(value)) {
      throw new Error("Write a whole number.");
    }
    if (minimum !== null && (value < minimum || (above && value === minimum))) {
      throw new Error(above ? `Must be more than ${minimum}.` : `Must be at least ${minimum}.`);
    }
    if (most !== null && value > most) {
      const seen = this.about.bound === "gpus";
      throw new Error(seen ? `At most ${most}: as many GPUs as are seen.` : `Must be at most ${most}.`);
    }
    return value;
  }

  /** The value that counts: of an empty field the default. */
  get meant() {
    return this.value ?? this.about.default;
  }

  get isChanged() {
    if (this.about.secret) {
      return Boolean(this.inputs[0].value || this.clear?.checked);
    }
    try {
      return !same(this.meant, this.saved);
    } catch {
      return true;
    }
  }

  /** What the API is sent: null for the default. */
  get change() {
    if (this.about.secret) {
      return this.inputs[0].value.trim() || null;
    }
    return same(this.meant, this.about.default) ? null : this.value;
  }

  put(value) {
    const { kind, pair } = this.about;
    for (const input of this.inputs) {
      if (kind === "switch") {
        input.checked = Boolean(value);
      } else if (kind === "gpus" && input.type === "checkbox") {
        input.checked = (value ?? []).map(String).includes(input.value);
      } else if (kind === "lines") {
        input.value = lines(value, pair);
      } else {
        input.value = Array.isArray(value) ? value.join(", ") : String(value ?? "");
      }
    }
    if (this.clear) {
      this.clear.checked = false;
    }
    this.render();
  }

  restore() {
    this.put(this.about.secret ? "" : this.saved);
  }

  /** Say what is wrong with it; empty: nothing. */
  say(problem) {
    write(hook(this.root, "error"), problem);
    for (const input of this.inputs) {
      if (problem) {
        input.setAttribute("aria-invalid", "true");
      } else {
        input.removeAttribute("aria-invalid");
      }
    }
  }

  /** Check it, say what is wrong, and return whether nothing is. */
  check() {
    try {
      void this.value;
      this.say("");
      return true;
    } catch (error) {
      this.say(error.message);
      return false;
    }
  }

  render() {
    this.root.classList.toggle("mh-opt--changed", this.isChanged);
    if (this.slider && this.inputs[0].value !== "") {
      this.slider.value = this.inputs[0].value;
    }
    if (!this.about.secret) {
      let usual = false;
      try {
        usual = same(this.meant, this.about.default);
      } catch {
        // It cannot be read, so it is not the default.
      }
      show(hook(this.root, "reset"), !usual);
    }
  }

  /** A value in words, as backends/pages/option_fields.py writes it. */
  words(value) {
    const { kind, nullable, unit, pair } = this.about;
    if (value === null || value === undefined || value === "" || (typeof value === "object" && !Object.keys(value).length)) {
      return nullable && kind === "choice" ? "automatic" : "not set";
    }
    if (typeof value === "boolean") {
      return value ? "on" : "off";
    }
    const text = kind === "lines" ? lines(value, pair).replaceAll("\n", ", ") : Array.isArray(value) ? value.join(", ") : String(value);
    return `${text} ${unit}`.trim();
  }

  /** `[before, after]` in words; of a secret only what becomes of it. */
  difference(isSet) {
    if (this.about.secret) {
      const after = this.inputs[0].value ? (isSet ? "replaced" : "set") : "not set";
      return [isSet ? "set" : "not set", after];
    }
    return [this.words(this.saved), this.words(this.meant)];
  }
}

function split(line) {
  const at = line.indexOf("=");
  return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
}

const written = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

function pairs(text, [first, second]) {
  return written(text).map((line) => {
    const [name, value] = split(line);
    if (!name || !value) {
      throw new Error(`“${line.slice(0, 60)}” is no line of the form ${first} = ${second}.`);
    }
    return { [first]: name, [second]: value };
  });
}

function named(text) {
  return Object.fromEntries(
    written(text).map((line) => {
      const [name, value] = split(line);
      if (!line.includes("=")) {
        return [name, true];
      }
      try {
        return [name, JSON.parse(value)];
      } catch {
        return [name, value];
      }
    }),
  );
}

function lines(value, [first, second]) {
  if (Array.isArray(value)) {
    return value.map((each) => `${each[first]} = ${each[second]}`).join("\n");
  }
  return Object.entries(value ?? {})
    .map(([name, each]) => `${name} = ${typeof each === "string" ? each : JSON.stringify(each)}`)
    .join("\n");
}
