// Numbers in words, as backends/cards.py writes them on the server.

export const NOTHING = "—";

/** "2.1 GB"; 1 GB is 2**30 bytes, as GPUs are sold. What nobody knows is NOTHING. */
export function bytes(count) {
  if (count === null || count === undefined) {
    return NOTHING;
  }
  const gigabytes = count / 2 ** 30;
  return gigabytes >= 1 ? `${gigabytes.toFixed(1)} GB` : `${Math.round(count / 2 ** 20)} MB`;
}

const UNITS = [
  [86400, "d", 3600, "h"],
  [3600, "h", 60, "min"],
  [60, "min", 1, "s"],
];

/** "42 s", "3 min 5 s", "2 h 4 min", "3 d 4 h". */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const found = UNITS.find(([size]) => whole >= size);
  if (!found) {
    return `${whole} s`;
  }
  const [size, unit, below, rest] = found;
  const left = Math.floor((whole % size) / below);
  return `${Math.floor(whole / size)} ${unit}${left ? ` ${left} ${rest}` : ""}`;
}

/** "180 ms" or "1.2 s". */
export function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** Seconds from an ISO time to `until` (default: now). */
export function secondsSince(iso, until = Date.now()) {
  return (until - Date.parse(iso)) / 1000;
}
