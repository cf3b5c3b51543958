// Markdown that a model wrote, as elements: nothing in it runs, and nothing in it is loaded from anywhere.
//
// HTML in it is shown as the text it is. What marked makes of the rest goes through DOMPurify, which lets only
// the elements and attributes named here pass, and comes back as nodes: no text of a model is ever parsed into
// the page.

import { copyText } from "./clipboard.js";
import { make, write } from "./dom.js";
import { Marked } from "./vendor/marked.js";
import purify from "./vendor/purify.js";

/** Where a link may lead; others are shown as text. */
const LINKS = /^(?:https?|mailto):/i;
/** The only tags of HTML that count as such: they stand for what Markdown cannot say. */
const PLAIN_TAGS = /^<\/?(?:br|sub|sup|kbd)\s*\/?>$/i;
const LANGUAGE = /^language-[\w+#.-]{1,40}$/;

const escape = (text) =>
  String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

const reader = new Marked({
  gfm: true,
  renderer: {
    html: ({ text }) => (PLAIN_TAGS.test(text.trim()) ? text : escape(text)),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    // The page's own headings come first: an answer's begin below them.
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    link({ href, title, tokens }) {
      const text = this.parser.parseInline(tokens);
      const named = title ? ` title="${escape(title)}"` : "";
      return LINKS.test(href) ? `<a href="${escape(href)}"${named}>${text}</a>` : text;
    },
    // An image would be loaded from another host, which then knows who reads this.
    image({ href, text }) {
      const name = escape(text || "image");
      return LINKS.test(href) ? `<a href="${escape(href)}">${name}</a>` : name;
    },
  },
});

const RULES = {
  ALLOWED_TAGS: [
    ...["a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "kbd", "li", "ol", "p", "pre"],
    ...["strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul", "#text"],
  ],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: LINKS,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

function nodesOf(tokens) {
  const fragment = purify.sanitize(reader.parser(tokens), RULES);
  for (const element of fragment.querySelectorAll("[class]")) {
    if (!(element.tagName === "CODE" && LANGUAGE.test(element.className))) {
      element.removeAttribute("class");
    }
  }
  for (const link of fragment.querySelectorAll("a")) {
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = make("div", { class: "mh-scroll", tabindex: "0" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const item of fragment.querySelectorAll("li")) {
    if (/^\s*[☑☐]/.test(item.textContent)) {
      item.className = "mh-task";
    }
  }
  for (const code of fragment.querySelectorAll("pre > code")) {
    dressCode(code);
  }
  return [...fragment.childNodes];
}

/** Put a bar over a block of code: its language, and a button that copies it. */
function dressCode(code) {
  const language = code.className.replace("language-", "");
  const copy = make("button", { type: "button", class: "mh-code__copy" }, "Copy");
  copy.addEventListener("click", async () => {
    write(copy, (await copyText(code.textContent)) ? "Copied" : "Could not copy");
    setTimeout(() => write(copy, "Copy"), 2000);
  });
  const bar = make("div", { class: "mh-code__bar" }, make("span", {}, language), copy);
  const frame = make("div", { class: "mh-code" }, bar);
  code.parentElement.replaceWith(frame);
  frame.append(make("pre", { tabindex: "0" }, code));
}

/**
 * An element that shows a Markdown text which grows. Blocks that are complete are left alone: only the last one
 * is made again as it grows, so a long answer costs no more per token than a short one.
 */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.text = "";
    /** How much of the text, in characters, is in blocks that will not change. */
    this.settled = 0;
    this.tail = [];
  }

  add(text) {
    this.text += text.replaceAll("\r", "");
  }

  /** Bring what was added onto the page. */
  draw() {
    const rest = this.text.slice(this.settled);
    const tokens = reader.lexer(rest);
    const last = tokens.findLastIndex(({ type }) => type !== "space");
    const done = last > 0 ? tokens.slice(0, last) : [];
    const raw = done.map((token) => token.raw).join("");
    const isSettled = raw !== "" && rest.startsWith(raw);
    for (const node of this.tail) {
      node.remove();
    }
    if (isSettled) {
      this.settled += raw.length;
      this.root.append(...nodesOf(done));
    }
    this.tail = nodesOf(isSettled ? tokens.slice(last) : tokens);
    this.root.append(...this.tail);
  }

  /** Bring all of it onto the page, now that it is whole. */
  finish() {
    if (/^ {0,3}\[[^\]]+\]:/m.test(this.text)) {
      // Links whose addresses stand elsewhere in the text: only the whole of it knows them.
      this.root.replaceChildren(...nodesOf(reader.lexer(this.text)));
      this.tail = [];
      this.settled = this.text.length;
    } else if (this.settled < this.text.length) {
      this.draw();
    }
  }
}
