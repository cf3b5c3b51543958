// The operations page: the history keeps itself true, and the times of the last month are drawn.

import { hook } from "../mh/dom.js";
import { duration } from "../mh/format.js";
import { live } from "../mh/live.js";
import { refresher } from "../mh/refresh.js";
import uPlot from "../mh/vendor/uplot.js";

const config = JSON.parse(document.getElementById("mh-config").textContent);

live.on("operation", refresher());

/** One series per backend: dots over the days, hollow where it failed. */
function draw(root) {
  const names = [...new Set(config.took.map(({ backend }) => backend))].sort();
  const points = [...config.took].sort((a, b) => a.at - b.at);
  const times = points.map(({ at }) => at);
  const series = names.map((name) => points.map((p) => (p.backend === name && p.succeeded ? p.seconds : null)));
  const failed = points.map((p) => (p.succeeded ? null : p.seconds));
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const tones = ["--mh-accent", "--mh-busy", "--mh-warn", "--mh-good"].map(colour);
  const axis = { stroke: colour("--mh-subtle"), grid: { stroke: colour("--mh-line"), width: 1 }, ticks: { show: false } };
  const now = Date.now() / 1000;
  const dots = (label, tone, fill) => ({
    label,
    stroke: tone,
    paths: () => null,
    points: { show: true, size: 7, width: 1.5, stroke: tone, fill },
    value: (_, seconds) => (seconds === null ? "" : duration(seconds)),
  });
  const options = {
    width: Math.max(root.clientWidth, 240),
    height: 220,
    cursor: { drag: { setScale: false } },
    scales: { x: { range: [now - config.days * 86400, now] }, y: { range: (_, __, most) => [0, Math.max(most * 1.1, 1)] } },
    axes: [{ ...axis }, { ...axis, size: 60, values: (_, values) => values.map((value) => duration(value)) }],
    series: [
      {},
      ...names.map((name, i) => dots(config.titles[name] ?? name, tones[i % tones.length], tones[i % tones.length])),
      dots("Failed", colour("--mh-bad"), "transparent"),
    ],
  };
  root.replaceChildren();
  return new uPlot(options, [times, ...series, failed], root);
}

const root = hook(document, "times");
if (root && config.took.length) {
  let chart = draw(root);
  new ResizeObserver(() => chart.setSize({ width: Math.max(root.clientWidth, 240), height: 220 })).observe(root);
  new MutationObserver(() => {
    chart.destroy();
    chart = draw(root);
  }).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
}
