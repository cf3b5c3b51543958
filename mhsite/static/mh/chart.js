// Lines over time, with uPlot; and a small one without axes, for a card.
//
//   import { Sparkline, TimeChart } from "/static/mh/chart.js";   // and mh/chart.css
//   const spark = new Sparkline(element, { label: "Tokens per second" });
//   spark.push(41.5);                     // each new value; the oldest leaves on the left. null is a gap
//
// Colours are the variables --mh-series-1 … -8, so a change of theme changes them.

import uPlot from "./vendor/uplot.js";
import { make, show, write } from "./dom.js";

const COLOURS = 8;
const HEIGHT = 190;
const NARROW = 480;

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** Series have eight colours; the ninth has the first one's again. */
export const colour = (index) => (index % COLOURS) + 1;

/** Call `redraw` when the theme changes. */
function onTheme(redraw) {
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["class"] });
}

/** A number with about three digits, as backends/charts.py writes it. */
export function shortNumber(value) {
  const rounded = Number(value.toFixed(3));
  return Math.abs(rounded) >= 999.5 ? rounded.toFixed(0) : String(Number(rounded.toPrecision(3)));
}

const formats = {};
function clock(options) {
  const key = JSON.stringify(options);
  formats[key] ??= new Intl.DateTimeFormat("en-GB", { hourCycle: "h23", ...options });
  return formats[key];
}

/** "21:05:10", or with its day where the chart shows more than one. */
export function moment(seconds, long) {
  const options = { hour: "2-digit", minute: "2-digit", ...(long ? { day: "numeric", month: "short" } : { second: "2-digit" }) };
  return clock(options).format(new Date(seconds * 1000));
}

/** What stands below the axis of time: hours, and days where one begins. */
function timeLabels(_plot, splits, _axis, _space, step) {
  let day = "";
  return splits.map((at) => {
    const date = new Date(at * 1000);
    const today = clock({ day: "numeric", month: "short" }).format(date);
    const begins = day !== "" && day !== today;
    day = today;
    if (step >= 86400 || begins) {
      return today;
    }
    return clock({ hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) }).format(date);
  });
}

/** Values with nothing on either side: a line cannot show them, so a dot does. */
function lonely(plot, index) {
  const values = plot.data[index];
  const [from, to] = plot.series[0].idxs ?? [0, values.length - 1];
  const found = [];
  for (let i = from; i <= to; i += 1) {
    if (values[i] !== null && values[i - 1] == null && values[i + 1] == null) {
      found.push(i);
    }
  }
  return found;
}

export class TimeChart {
  /**
   * `host` is an element with [data-plot], [data-legend] and [data-chart-time] in it.
   * `unit` follows each number; `top` is where the axis ends, if it does not follow the values; `whole`: counts.
   */
  constructor(host, { title, unit = "", whole = false, sync = "mh" }) {
    Object.assign(this, { host, title, unit, whole, sync, top: null, plot: null, keys: "", lines: [], range: [0, 1] });
    this.box = host.querySelector("[data-plot]");
    this.legend = host.querySelector("[data-legend]");
    this.time = host.querySelector("[data-chart-time]");
    this.none = make("p", { class: "mh-chart__none" }, "Nothing was measured in this time.");
    this.box.append(this.none);
    this.box.setAttribute("role", "img");
    new ResizeObserver(() => this.resize()).observe(this.box);
    onTheme(() => this.plot?.redraw(false));
  }

  /** `lines`: `{ key, title, colour, dashed, values }`, a value (or null) for each of `times`, in seconds. */
  render({ times, lines, range, top = null }) {
    Object.assign(this, { times, lines, range, top });
    const keys = lines.map(({ key }) => key).join(" ");
    const data = [times, ...lines.map(({ values }) => values)];
    const empty = lines.every(({ values }) => values.every((value) => value === null));
    show(this.none, empty);
    if (this.plot === null || keys !== this.keys) {
      this.plot?.destroy();
      this.keys = keys;
      this.plot = new uPlot(this.options(), data, this.box);
      this.makeLegend();
    } else {
      this.plot.setData(data);
    }
    this.writeLegend();
    this.box.setAttribute("aria-label", this.inWords());
  }

  options() {
    const axis = {
      font: "11px system-ui, sans-serif",
      grid: { stroke: () => variable("--mh-line"), width: 1 },
      stroke: () => variable("--mh-subtle"),
      ticks: { show: false },
    };
    return {
      width: this.width(),
      height: HEIGHT,
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: this.sync }, drag: { x: false, y: false }, y: false, points: { size: 7 } },
      scales: { x: { time: true, range: () => this.range }, y: { range: (_plot, _min, max) => [0, this.highest(max)] } },
      axes: [
        { ...axis, values: timeLabels, space: this.width() < NARROW ? 70 : 90, size: 28 },
        {
          ...axis,
          values: (_plot, splits) => splits.map((value) => shortNumber(value)),
          incrs: this.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] : undefined,
          size: 46,
          space: 32,
        },
      ],
      series: [{}, ...this.lines.map((line) => this.series(line))],
      hooks: { setCursor: [() => this.writeLegend()] },
    };
  }

  series(line) {
    const stroke = () => variable(`--mh-series-${colour(line.colour)}`);
    return {
      label: line.title,
      stroke,
      width: 1.75,
      dash: line.dashed ? [5, 4] : undefined,
      spanGaps: false,
      points: { show: () => false, filter: lonely, size: 5, fill: stroke, stroke },
    };
  }

  highest(max) {
    if (this.top) {
      return Math.max(this.top, max ?? 0);
    }
    const highest = (max || 0) * 1.1;
    return this.whole ? Math.max(2, Math.ceil(highest)) : highest || 1;
  }

  makeLegend() {
    this.values = this.lines.map(() => make("span", { class: "mh-legend__value" }));
    this.legend.replaceChildren(
      ...this.lines.map((line, i) => {
        const swatch = make("span", { class: line.dashed ? "mh-swatch mh-swatch--dashed" : "mh-swatch" });
        return make("li", { class: `mh-line-${colour(line.colour)}` }, swatch, make("span", {}, line.title), this.values[i]);
      }),
    );
  }

  /** The values under the cursor; without one, the newest. */
  writeLegend() {
    const at = this.plot?.cursor.idx ?? null;
    this.lines.forEach(({ values }, i) => write(this.values[i], this.text(at === null ? newest(values) : values[at])));
    const long = this.range[1] - this.range[0] > 86400;
    write(this.time, at === null ? "" : moment(this.times[at], long));
  }

  text(value) {
    return value === null || value === undefined ? "—" : `${shortNumber(value)} ${this.unit}`.trim();
  }

  /** For those who do not see it. */
  inWords() {
    const parts = this.lines.map(({ title, values }) => {
      const known = values.filter((value) => value !== null);
      return known.length ? `${title}: now ${this.text(newest(values))}, highest ${this.text(Math.max(...known))}` : `${title}: nothing`;
    });
    return `${this.title}. ${parts.join("; ") || "Nothing was measured in this time"}.`;
  }

  width() {
    return Math.max(120, Math.floor(this.box.clientWidth));
  }

  resize() {
    if (this.plot && this.box.clientWidth && this.plot.width !== this.width()) {
      this.plot.setSize({ width: this.width(), height: HEIGHT });
    }
  }
}

/** The last value; the newest point has just begun and may be empty still. */
export const newest = (values) => values.at(-1) ?? values.at(-2) ?? null;

/** A line without axes: the last `length` values, from 0 to the highest of them. null is a gap. */
export class Sparkline {
  constructor(host, { label, length = 60, colour: index = 0 }) {
    this.values = Array(length).fill(null);
    this.label = label;
    this.colour = `--mh-series-${colour(index)}`;
    this.canvas = make("canvas", { class: "mh-sparkline", role: "img" });
    host.replaceChildren(this.canvas);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    onTheme(() => this.draw());
    this.draw();
  }

  /** Begin with these values, oldest first. */
  fill(values) {
    const { length } = this.values;
    this.values = [...Array(length).fill(null), ...values].slice(-length);
    this.draw();
  }

  /** The newest value; the oldest one leaves. */
  push(value) {
    this.fill([...this.values, value ?? null]);
  }

  draw() {
    const { canvas, values } = this;
    const latest = values.at(-1);
    canvas.setAttribute("aria-label", `${this.label}: ${latest === null ? "unknown" : shortNumber(latest)}`);
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * scale;
    canvas.height = canvas.clientHeight * scale;
    const top = Math.max(1, ...values.map((value) => value ?? 0));
    const pen = canvas.getContext("2d");
    pen.strokeStyle = variable(this.colour);
    pen.lineWidth = 1.5 * scale;
    pen.beginPath();
    values.forEach((value, i) => {
      if (value !== null) {
        const x = (i / (values.length - 1)) * canvas.width;
        const y = canvas.height - scale - (value / top) * (canvas.height - 2 * scale);
        (i > 0 && values[i - 1] !== null ? pen.lineTo : pen.moveTo).call(pen, x, y);
      }
    });
    pen.stroke();
  }
}
