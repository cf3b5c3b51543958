// Samples as the charts draw them: what GET /api/llm-backend/samples answered, with what came since.

export class Samples {
  /** `payload` as REST has it; `seconds` that are shown. */
  constructor(payload, seconds) {
    this.seconds = seconds;
    this.step = payload.step;
    this.times = payload.times;
    this.series = payload.series;
    /** The moment up to which something is known, by the server's clock. */
    this.now = payload.now;
    this.counts = new Map();
  }

  get range() {
    return [this.now - this.seconds, this.now];
  }

  /** The values of a series' measure, or undefined. */
  values(series, measure) {
    return series.measures[measure];
  }

  /** Take a `sample` frame; false where it names a series that is not known: then all have to be asked for. */
  add(frame) {
    const known = frame.series.map((one) => this.find(frame.node, one));
    if (known.includes(undefined)) {
      return false;
    }
    const bucket = Math.floor(frame.at / this.step) * this.step;
    if (bucket < this.times[0]) {
      return true; // a clock was set back by more than is shown
    }
    this.now = Math.max(this.now, frame.at + frame.step);
    this.reach(bucket);
    const index = this.times.indexOf(bucket);
    frame.series.forEach((one, i) => this.put(known[i], index, one.values, frame.step));
    return true;
  }

  find(node, { kind, id }) {
    return this.series.find((one) => one.node === node && one.kind === kind && one.id === id);
  }

  /** Make points up to `bucket`, and let those go that are too old. */
  reach(bucket) {
    while (this.times.at(-1) < bucket) {
      this.times.push(this.times.at(-1) + this.step);
      this.each((values) => values.push(null));
    }
    while (this.times.length > 2 && this.times[1] <= this.range[0]) {
      this.times.shift();
      this.each((values) => values.shift());
    }
  }

  each(change) {
    for (const { measures } of this.series) {
      Object.values(measures).forEach(change);
    }
  }

  /** A point is the mean of the samples in its time; how many the server's last one had, its length tells. */
  put(series, index, found, step) {
    for (const [measure, value] of Object.entries(found)) {
      series.measures[measure] ??= this.times.map(() => null);
      const values = series.measures[measure];
      const key = `${series.kind}/${series.id}/${measure}/${this.times[index]}`;
      const before = this.step === step ? null : values[index];
      const count = before === null ? 0 : this.counts.get(key) ?? Math.max(1, Math.floor(this.step / step / 2));
      values[index] = before === null ? value : (before * count + value) / (count + 1);
      this.counts.set(key, count + 1);
    }
    if (this.counts.size > 5000) {
      this.counts.clear();
    }
  }
}
