// What a prompt is typed into, with the images that go with it.

import { hook, make, show, write } from "../mh/dom.js";
import { imageUrl } from "./images.js";

let count = 0;

export class Composer {
  /** `onsend(text, images)` returns whether it was sent; `onstop()`. */
  constructor(root, { onsend, onstop, limits }) {
    this.root = root;
    this.onsend = onsend;
    this.onstop = onstop;
    this.limits = limits;
    this.images = [];
    /** What was wrong with the last files, until something else is done here. */
    this.problem = "";
    /** Sent before the page was connected: it goes when it is, unless it is changed. */
    this.isEarly = false;
    this.state = { mayAsk: false, isConnecting: true, isBusy: false, hint: "" };
    this.prompt = hook(root, "prompt");
    this.send = hook(root, "send");
    this.label();
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.prompt.addEventListener("keydown", (event) => this.pressed(event));
    this.prompt.addEventListener("input", () => this.typed());
    this.prompt.addEventListener("paste", (event) => this.take(event.clipboardData?.files ?? []));
    hook(root, "stop").addEventListener("click", () => this.onstop());
    // On its way down: the theme listens to every file input, and takes each for one of its own.
    root.addEventListener("change", (event) => this.chosen(event), { capture: true });
  }

  label() {
    count += 1;
    this.prompt.id = `chat-prompt-${count}`;
    hook(this.root, "prompt-label").setAttribute("for", this.prompt.id);
    hook(this.root, "hint").id = `chat-hint-${count}`;
    this.prompt.setAttribute("aria-describedby", `chat-hint-${count}`);
  }

  chosen(event) {
    if (event.target === hook(this.root, "attach")) {
      event.stopPropagation();
      this.take(event.target.files);
      event.target.value = "";
    }
  }

  pressed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape" && this.state.isBusy) {
      event.preventDefault();
      this.onstop();
    }
  }

  typed() {
    // As tall as what is typed, within bounds.
    this.problem = "";
    this.isEarly = false;
    this.prompt.rows = Math.min(8, Math.max(2, this.prompt.value.split("\n").length));
    this.render();
  }

  get isEmpty() {
    return !this.prompt.value.trim() && this.images.length === 0;
  }

  submit() {
    const { mayAsk, isConnecting } = this.state;
    if (mayAsk) {
      if (this.give()) {
        this.focus();
      }
    } else {
      this.isEarly = isConnecting && !this.isEmpty;
      this.render();
    }
  }

  /** Give what is typed to be asked; returns whether it was. */
  give() {
    if (this.state.isBusy || this.isEmpty || !this.onsend(this.prompt.value.trim(), this.images)) {
      return false;
    }
    this.images = [];
    this.prompt.value = "";
    this.typed();
    this.drawImages();
    return true;
  }

  focus() {
    this.prompt.focus({ preventScroll: true });
  }

  async take(files) {
    this.problem = "";
    // A copy: the list of an input empties itself when the input is cleared.
    for (const file of [...files]) {
      if (this.images.length >= this.limits.imagesMax) {
        this.problem = `At most ${this.limits.imagesMax} images at once.`;
        break;
      }
      try {
        this.images.push(await imageUrl(file, this.limits.imageMaxBytes));
        this.drawImages();
      } catch (error) {
        this.problem = error.message;
      }
    }
    this.render();
  }

  drawImages() {
    const list = hook(this.root, "images");
    list.replaceChildren(...this.images.map((url, index) => this.image(url, index)));
    show(list, this.images.length > 0, () => this.prompt);
  }

  image(url, index) {
    const remove = make("button", { type: "button", class: "mh-button mh-button--small", "aria-label": `Remove image ${index + 1}` }, "✕");
    remove.addEventListener("click", () => {
      this.images.splice(index, 1);
      this.drawImages();
      this.render();
    });
    return make("li", {}, make("img", { src: url, alt: `Image ${index + 1}` }), remove);
  }

  /** Take in whether one may ask or soon may, whether an answer is running, and what to say beside the buttons. */
  update(state) {
    this.state = { ...this.state, ...state };
    if (this.isEarly && this.state.mayAsk) {
      this.isEarly = false;
      this.give();
    }
    this.render();
  }

  render() {
    const { mayAsk, isConnecting, isBusy, hint } = this.state;
    const early = this.isEarly && isConnecting ? "Goes as soon as the page is connected." : "";
    write(hook(this.root, "hint"), this.problem || early || hint || "Enter sends, Shift+Enter makes a new line.");
    this.send.disabled = !(mayAsk || isConnecting) || this.isEmpty;
    show(hook(this.root, "stop"), isBusy, () => this.prompt);
    show(this.send, !isBusy, () => this.prompt);
  }
}
