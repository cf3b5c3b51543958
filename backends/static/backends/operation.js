// The running, or last, operation of a card.

import { hook, make, show, tell, write } from "../mh/dom.js";
import { duration, secondsSince } from "../mh/format.js";

const OPEN = new Set(["queued", "running"]);

export const isOpen = (operation) => OPEN.has(operation?.state);

export class OperationView {
  /** `config` is the page's tables; `title` the backend's name for people. */
  constructor(root, config, title) {
    this.root = root;
    this.config = config;
    this.title = title;
    this.operation = null;
    this.seenAt = 0;
    this.said = "";
    this.cancelForm = hook(root, "cancel");
    this.cancelUrl = "";
  }

  /** The answer to a click may come after the word of the end: what has ended does not begin again. */
  render(operation) {
    if (operation.id === this.operation?.id && isOpen(operation) && !isOpen(this.operation)) {
      return;
    }
    const opened = isOpen(operation) && !isOpen(this.operation);
    const ended = !isOpen(operation) && isOpen(this.operation);
    this.operation = operation;
    this.seenAt = Date.now();
    const { root } = this;
    show(root, true);
    root.dataset.operation = operation.id;
    root.dataset.operationState = operation.state;
    write(hook(root, "operation-title"), this.words(operation));
    const bar = hook(root, "operation-progress");
    show(bar, isOpen(operation));
    bar.value = operation.progress;
    hook(root, "operation-steps").replaceChildren(...operation.steps.map((step) => this.step(step)));
    this.renderError();
    this.renderCancel(operation);
    this.tick();
    if (opened || ended) {
      hook(root, "operation-fold").open = opened || Boolean(operation.error);
    }
  }

  /** What the card says already is not said twice. */
  renderError(said = this.said) {
    this.said = said;
    const error = this.operation?.error;
    const fresh = error && error.message !== said;
    tell(hook(this.root, "operation-error"), fresh ? error.message : "");
    tell(hook(this.root, "operation-detail"), fresh ? error.detail : "");
  }

  summary() {
    return hook(this.root, "operation-fold").querySelector("summary");
  }

  focus() {
    this.summary().focus();
  }

  renderCancel(operation) {
    if (!this.cancelForm) {
      return;
    }
    const button = this.cancelForm.querySelector("button");
    if (!isOpen(operation)) {
      button.disabled = false;
    }
    show(this.cancelForm, isOpen(operation), () => this.summary());
  }

  words(operation) {
    const { operationWords, outcomeWords } = this.config;
    const [present, past] = operationWords[operation.kind] ?? [operation.kind, operation.kind];
    return isOpen(operation)
      ? `${present} ${this.title}`
      : `${past} ${outcomeWords[operation.state] ?? operation.state}`;
  }

  step(step) {
    const took = step.finished_at
      ? duration(secondsSince(step.started_at, Date.parse(step.finished_at)))
      : "";
    return make(
      "li",
      { class: "mh-step", "data-step-state": step.state },
      make("span", { class: "mh-step__mark", "aria-hidden": "true" }),
      make(
        "span",
        { class: "mh-step__word" },
        this.config.stepWords[step.name] ?? step.name,
        make("span", { class: "mh-hidden" }, `, ${step.state}`),
      ),
      make("span", { class: "mh-step__message" }, step.message === this.operation.error?.message ? "" : step.message),
      make("span", { class: "mh-step__took" }, took),
    );
  }

  /** Once a second: the time left, counted down between two frames. */
  tick() {
    if (this.operation) {
      write(hook(this.root, "operation-aside"), this.aside(this.operation));
    }
  }

  aside(operation) {
    if (operation.finished_at) {
      const took = secondsSince(operation.created_at, Date.parse(operation.finished_at));
      return `${duration(took)}, for ${operation.requested_by}`;
    }
    const left = operation.eta_seconds && operation.eta_seconds - secondsSince(new Date(this.seenAt));
    return left > 0 ? `about ${duration(left)} left` : "";
  }
}
