// Small helpers over the DOM. Text only ever goes in as text: nothing here parses HTML.

/** The element with this data attribute inside `root`, or null. */
export const hook = (root, name) => root.querySelector(`[data-${name}]`);

/** Make an element: `make("span", { class: "x" }, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Set text, touching the document only when it changes (a screen reader would say it again). */
export function write(element, text) {
  if (element && element.textContent !== text) {
    element.textContent = text;
  }
}

/** Show or hide; moves the focus on to `next` when the hidden part held it. */
export function show(element, visible, next = null) {
  if (!element || element.hidden === !visible) {
    return;
  }
  const focused = !visible && element.contains(document.activeElement);
  element.hidden = !visible;
  if (focused && next) {
    next()?.focus();
  }
}

/** Show `text` in `element`, or hide it when there is none. */
export function tell(element, text) {
  write(element, text || "");
  show(element, Boolean(text));
}
