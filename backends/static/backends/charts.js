// The Charts page: what the server knows, drawn; then every sample as /ws/status/ brings it. Nothing is polled.

import { Samples } from "./samples.js";
import { call } from "../mh/api.js";
import { newest, TimeChart } from "../mh/chart.js";
import { hook, make, show, tell, write } from "../mh/dom.js";
import { duration } from "../mh/format.js";
import { live } from "../mh/live.js";

const config = JSON.parse(document.getElementById("mh-config").textContent);
const problem = document.getElementById("mh-problem");
const ranges = [...document.querySelectorAll("[data-range]")];
const charts = new Map();
for (const described of config.charts) {
  const host = document.querySelector(`[data-chart="${described.key}"]`);
  const group = described.group === "gpu" ? "GPU " : "";
  charts.set(described.key, new TimeChart(host, { ...described, title: `${group}${described.title}` }));
}
let chosen = config.range;
let samples = new Samples(config.samples, config.ranges[chosen].seconds);
let asking = 0;
/** The last frames. */
let recent = [];

/** What one chart draws: a line for each series of its kinds that has the measure. */
function linesOf(chart) {
  return chart.lines.flatMap((line) =>
    samples.series
      .filter(({ kind }) => kind === line.kind)
      .map((series, i) => ({ series, i, values: samples.values(series, line.measure) }))
      .filter(({ values }) => values)
      .map(({ series, i, values }) => ({
        key: `${series.node}/${series.kind}/${series.id}/${line.measure}`.replaceAll(" ", "_"),
        title: line.note ? `${series.title}, ${line.note}` : series.title,
        colour: line.kind === "site" ? 7 : i,
        dashed: Boolean(line.note),
        values: values.map((value) => (value === null ? null : value * chart.scale)),
      })),
  );
}

/** Where the axis ends: what the GPUs have, where a measure says that. */
function topOf(chart) {
  if (!chart.top_measure) {
    return chart.top;
  }
  const all = samples.series.flatMap((series) => samples.values(series, chart.top_measure) ?? []);
  const top = Math.max(0, ...all.filter((value) => value !== null)) * chart.scale;
  return top ? Number(top.toPrecision(4)) : null;
}

function render() {
  for (const chart of config.charts) {
    charts.get(chart.key).render({ times: samples.times, lines: linesOf(chart), range: samples.range, top: topOf(chart) });
  }
  const kinds = samples.series.map(({ kind }) => kind);
  const shown = { gpu: kinds.includes("gpu") || live?.status.gpus.length > 0, engine: kinds.includes("backend") };
  renderGroup("gpu", shown.gpu);
  renderGroup("engine", shown.engine);
  renderNumbers(shown.gpu || shown.engine);
  write(hook(document, "resolution"), `A point is the mean of ${duration(samples.step)}.`);
}

function renderGroup(key, some) {
  const group = document.querySelector(`[data-group="${key}"]`);
  show(hook(group, "none"), !some);
  show(hook(group, "charts"), some);
  write(hook(group, "words"), config.ranges[chosen].words);
}

/** The same in numbers: for those who do not see lines. */
function renderNumbers(some) {
  const table = document.querySelector(".mh-numbers");
  const bodies = config.charts.map(bodyOf).filter(Boolean);
  const old = [...table.tBodies];
  const alike = old.length === bodies.length && old.every((body, i) => body.rows.length === bodies[i].rows.length);
  if (alike) {
    old.forEach((body, i) => [...body.rows].forEach((row, j) => [...row.cells].forEach((cell, k) => write(cell, bodies[i].rows[j].cells[k].textContent))));
  } else {
    old.forEach((body) => body.remove());
    table.append(...bodies);
  }
  show(hook(document, "numbers"), some && bodies.length > 0);
}

function bodyOf(chart) {
  const view = charts.get(chart.key);
  const rows = view.lines.map(({ title, values }) => {
    const known = values.filter((value) => value !== null);
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    return known.length ? [title, ...[newest(values), mean, Math.max(...known)].map((value) => view.text(value))] : null;
  });
  const found = rows.filter(Boolean).map(([title, ...numbers]) =>
    make("tr", {}, make("td", {}, title), ...numbers.map((text) => make("td", { class: "mh-number" }, text))),
  );
  const title = chart.group === "gpu" ? `GPU ${chart.title.toLowerCase()}` : chart.title;
  const head = make("th", { scope: "rowgroup", colspan: "4", class: "mh-numbers__chart" }, title);
  return found.length ? make("tbody", {}, make("tr", {}, head), ...found) : null;
}

/** Ask the server for the time that is chosen; of two that ask, the later one counts. */
async function ask() {
  asking += 1;
  const mine = asking;
  const { seconds } = config.ranges[chosen];
  const since = new Date((samples.now - seconds) * 1000).toISOString();
  try {
    const payload = await call("GET", `/api/llm-backend/samples?since=${encodeURIComponent(since)}`);
    if (mine === asking) {
      tell(problem, "");
      samples = new Samples(payload, seconds);
      // What came while the server was answering.
      recent.filter(({ step }) => step === samples.step).forEach((frame) => samples.add(frame));
      render();
    }
  } catch (error) {
    tell(problem, error.message);
  }
}

function choose(key) {
  chosen = key;
  for (const link of ranges) {
    if (link.dataset.range === key) {
      link.setAttribute("aria-current", "true");
    } else {
      link.removeAttribute("aria-current");
    }
  }
  window.history.replaceState(null, "", `?range=${key}`);
  return ask();
}

for (const link of ranges) {
  link.addEventListener("click", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      choose(link.dataset.range);
    }
  });
}

render();
live?.on("sample", (frame) => {
  recent = [...recent, frame].slice(-4);
  if (samples.add(frame)) {
    render();
  } else {
    ask();
  }
});
// What came before the line was up, or while it was down, is not sent again.
live?.on("connection", (state) => state === "open" && ask());
