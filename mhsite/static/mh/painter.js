// Brings what has changed onto the page once per frame, however often it changes in between.

const waiting = new Set();
let request = 0;

/** Have `thing.paint(now)` called with the next frame, and again until it returns true. */
export function paintSoon(thing) {
  waiting.add(thing);
  request ||= requestAnimationFrame(frame);
}

function frame(now) {
  request = 0;
  for (const thing of [...waiting]) {
    if (thing.paint(now)) {
      waiting.delete(thing);
    }
  }
  if (waiting.size) {
    request = requestAnimationFrame(frame);
  }
}
