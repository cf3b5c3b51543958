// Does it fit? Asked while the options are changed, and drawn.

import { call } from "../mh/api.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { bytes, duration } from "../mh/format.js";

/** Milliseconds without a key before the plan is asked for. */
const QUIET = 300;
const TONES = { fits: "good", fits_after_release: "warn", does_not_fit: "bad", unknown: "off" };
const PARTS = [
  ["others", "Others"],
  ["weights", "Weights"],
  ["kv", "KV cache"],
  ["other", "Engine"],
  ["more", "More cache"],
];

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The parts of one memory in bytes, in the order they are drawn, and how much there is. */
function memoryOf(plan, { free, freed, total, takes, needs }) {
  const needed = [plan.weights ?? 0, plan.kv_cache ?? 0, plan.other ?? 0];
  const had = (free ?? 0) + (freed ?? 0);
  return {
    total: total ?? Math.max(had, takes),
    parts: {
      others: Math.max(0, (total ?? had) - had),
      weights: needed[0],
      kv: needed[1],
      other: Math.max(needed[2], needs - sum(needed)),
      more: Math.max(0, takes - needs),
    },
  };
}

export class PlanView {
  /** `suggest(options)` puts them into the form; `problems(found)` shows them there. */
  constructor(root, { url, titles, verdicts, suggest, problems }) {
    this.root = root;
    this.url = url;
    this.titles = titles;
    this.verdicts = verdicts;
    this.suggest = suggest;
    this.problems = problems;
    this.asked = null;
    this.options = {};
    this.timer = null;
    this.running = null;
  }

  /** Ask for the plan with these changes, once nothing has been typed for a moment. */
  ask(options) {
    const key = JSON.stringify(options);
    if (key === this.asked) {
      return;
    }
    this.asked = key;
    this.options = options;
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    this.running?.abort();
    this.root.setAttribute("aria-busy", "true");
    this.timer = setTimeout(() => this.fetch(), QUIET);
  }

  async fetch() {
    const running = new AbortController();
    this.running = running;
    try {
      this.render(await call("POST", `${this.url}/plan?problems=true`, { options: this.options }, { signal: running.signal }));
    } catch (error) {
      if (error.name === "AbortError") {
        return;
      }
      const blame = error.param?.startsWith("options.") ? error.param.slice("options.".length) : error.param;
      const problems = [{ message: error.message, option: blame ?? null }];
      this.render({ verdict: "unknown", because: "", gpus: [], suggestions: [], problems, releases: [] });
    }
    this.root.removeAttribute("aria-busy");
    show(hook(this.root, "plan-waiting"), false);
  }

  render(plan) {
    const tag = hook(this.root, "plan-verdict");
    this.root.dataset.verdict = plan.verdict;
    const alone = plan.verdict === "fits_after_release" && plan.releases.every((name) => name === plan.backend);
    tag.dataset.tone = alone ? "good" : (TONES[plan.verdict] ?? "off");
    tell(tag, alone ? "Fits after a restart" : (this.verdicts[plan.verdict] ?? plan.verdict));
    write(hook(this.root, "plan-because"), plan.because);
    this.renderBars(plan);
    hook(this.root, "plan-facts").replaceChildren(...this.facts(plan).map((text) => make("li", {}, text)));
    this.renderSuggestions(plan.suggestions);
    this.renderProblems(plan.problems ?? []);
  }

  facts(plan) {
    const found = [];
    const others = (plan.releases ?? []).filter((name) => name !== plan.backend);
    if (others.length) {
      found.push(`Gives way first: ${others.map((name) => this.titles[name] ?? name).join(", ")}`);
    }
    if (plan.context_length) {
      const most = plan.context_fits ? `; ${plan.context_fits} would fit` : "";
      found.push(`Conversations of ${plan.context_length} tokens${most}`);
    }
    if (plan.spilled) {
      found.push(`${bytes(plan.spilled)} are kept in main memory, and are slow`);
    }
    if (plan.expected_seconds) {
      found.push(`Ready about ${duration(plan.expected_seconds)} after it is asked for`);
    }
    if (plan.measured) {
      found.push("Measured at an earlier start");
    }
    return found;
  }

  renderBars(plan) {
    const known = plan.weights !== null && plan.weights !== undefined;
    const bars = [];
    if (known && plan.memory === "gpu") {
      for (const gpu of plan.gpus) {
        bars.push(this.bar(`GPU ${gpu.index}`, memoryOf(plan, gpu)));
      }
    } else if (known && plan.memory === "host") {
      const { free, freed, needed } = plan;
      bars.push(this.bar("Memory to be had", memoryOf(plan, { free, freed, total: null, takes: needed, needs: needed })));
    }
    hook(this.root, "plan-bars").replaceChildren(...bars);
    this.renderLegend(bars.length ? plan : null);
  }

  /** A bar of one memory: what is in it, what comes, and a mark where it ends if that is too much. */
  bar(title, { total, parts }) {
    const whole = Math.max(total, sum(Object.values(parts)), 1);
    const words = PARTS.filter(([name]) => parts[name]).map(([name, word]) => `${word} ${bytes(parts[name])}`);
    const strip = make("div", { class: "mh-memory", role: "img", "aria-label": `${title}: ${words.join(", ")}, of ${bytes(total)}` });
    for (const [name] of PARTS) {
      if (parts[name]) {
        const piece = make("span", { class: "mh-memory__part", "data-part": name });
        piece.style.width = `${(100 * parts[name]) / whole}%`;
        strip.append(piece);
      }
    }
    if (whole > total * 1.001) {
      const end = make("span", { class: "mh-memory__end" });
      end.style.left = `${(100 * total) / whole}%`;
      strip.append(end);
    }
    const used = sum(Object.values(parts));
    const head = make(
      "p",
      { class: "mh-memory__head" },
      make("span", { class: "mh-strong" }, title),
      make("span", { class: "mh-subtle" }, `${bytes(used)} of ${bytes(total)}`),
    );
    return make("div", {}, head, strip);
  }

  renderLegend(plan) {
    const legend = hook(this.root, "plan-legend");
    const amounts = plan && { weights: plan.weights, kv: plan.kv_cache, other: plan.other };
    const drawn = new Set([...this.root.querySelectorAll(".mh-memory__part")].map(({ dataset }) => dataset.part));
    const each = plan?.gpus?.length > 1 ? " each" : "";
    legend.replaceChildren(
      ...PARTS.filter(([name]) => drawn.has(name)).map(([name, word]) =>
        make("li", { "data-part": name }, amounts?.[name] ? `${word} ${bytes(amounts[name])}${each}` : word),
      ),
    );
    show(legend, drawn.size > 0);
  }

  renderSuggestions(suggestions) {
    const list = hook(this.root, "plan-suggestions");
    list.replaceChildren(
      ...suggestions.map(({ message, options }) => {
        const line = make("li", {}, make("span", {}, message));
        if (Object.keys(options).length) {
          const button = make("button", { type: "button", class: "mh-button mh-button--small", "aria-label": `Do so: ${message}` }, "Do so");
          button.addEventListener("click", () => this.suggest(options));
          line.append(button);
        }
        return line;
      }),
    );
    show(hook(this.root, "plan-advice"), suggestions.length > 0);
  }

  /** What stands against a start beside memory; what an option is to blame for stands there too. */
  renderProblems(problems) {
    const list = hook(this.root, "plan-problems");
    list.replaceChildren(...problems.map(({ message }) => make("li", {}, message)));
    show(list, problems.length > 0);
    this.problems(problems);
  }
}
