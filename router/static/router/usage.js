// The Usage page: tokens by day as a picture, and quotas over the REST API.

import { call } from "../mh/api.js";
import { confirmed } from "../mh/confirm.js";
import { hook } from "../mh/dom.js";
import { announce, bodyOf, focusOn, send, showError, target } from "../mh/form.js";
import { refreshed } from "../mh/refresh.js";
import uPlot from "../mh/vendor/uplot.js";

const HEIGHT = 200;
const { days } = JSON.parse(document.getElementById("mh-config").textContent);
const figure = hook(document, "chart");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let chart = null;

function axis(more) {
  return {
    stroke: colour("--mh-subtle"),
    grid: { stroke: colour("--mh-line"), width: 1 },
    ticks: { stroke: colour("--mh-line"), width: 1 },
    font: "12px system-ui, sans-serif",
    ...more,
  };
}

function bars(label, name) {
  const fill = colour(name);
  return { label, fill, stroke: fill, width: 0, paths: uPlot.paths.bars({ size: [0.7, 48], radius: 0.15 }), points: { show: false } };
}

/** Bars of all tokens, and before them those that were read: what is seen above is what was written. */
function draw() {
  chart?.destroy();
  const columns = [0, 1, 2].map((column) => days.map((day) => day[column]));
  const whole = days.map(([, read, written]) => read + written);
  const options = {
    width: figure.clientWidth,
    height: HEIGHT,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: { live: false },
    cursor: { show: false },
    scales: { x: { range: (_, least, most) => [least - 43200, most + 43200] }, y: { range: (_, __, most) => [0, Math.max(most, 1) * 1.1] } },
    axes: [axis({ values: (_, at) => at.map((one) => new Date(one * 1000).toISOString().slice(5, 10)), incrs: [1, 2, 7, 14, 30, 90].map((n) => n * 86400) }), axis({ size: 56, values: (_, at) => at.map((one) => short.format(one)) })],
    series: [{}, bars("Tokens out", "--mh-series-1"), bars("Tokens in", "--mh-series-2")],
  };
  chart = new uPlot(options, [columns[0], whole, columns[1]], figure);
}

if (figure && days.length > 0) {
  const [read, written] = [1, 2].map((column) => days.reduce((sum, day) => sum + day[column], 0));
  figure.setAttribute("role", "img");
  figure.setAttribute("aria-label", `Tokens by day: ${short.format(read)} in and ${short.format(written)} out in ${days.length} days.`);
  let width = 0;
  new ResizeObserver(() => {
    if (figure.clientWidth && figure.clientWidth !== width) {
      width = figure.clientWidth;
      draw();
    }
  }).observe(figure);
  new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
}

async function renewQuotas(said) {
  window.history.replaceState(null, "", window.location.pathname);
  const [part] = await refreshed("quotas");
  focusOn(part);
  announce(said);
}

document.getElementById("mh").addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-refresh=quotas] form[data-api]")) {
    return;
  }
  event.preventDefault();
  const { method, path } = target(form);
  const user = form.elements.user.value;
  if (event.submitter?.hasAttribute("data-remove")) {
    if (await confirmed(`Take back the quota of ${user}? What the site says for everybody holds again.`, "Take it back")) {
      await call("DELETE", path).then(
        () => renewQuotas(`The quota of ${user} was taken back.`),
        (error) => showError(form, error),
      );
    }
  } else if (await send(form, method, path, bodyOf(form))) {
    await renewQuotas(`The quota of ${user} was saved.`);
  }
});
