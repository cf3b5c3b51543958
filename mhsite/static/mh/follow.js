// Keeps the newest line of a scrolling list in view, until the reader scrolls up to read.

const NEAR = 40;

export class Follow {
  /** `onchange(isFollowing)` when the reader scrolls away, or comes back. */
  constructor(list, onchange = () => {}) {
    this.list = list;
    this.onchange = onchange;
    this.isFollowing = true;
    this.last = 0;
    list.addEventListener("scroll", () => this.scrolled(), { passive: true });
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    // Only going up leaves: text that arrives between two looks also makes a distance to the end.
    if (isAtEnd !== this.isFollowing && (isAtEnd || scrollTop < this.last - 1)) {
      this.isFollowing = isAtEnd;
      this.onchange(isAtEnd);
    }
    this.last = scrollTop;
  }

  /** The list has grown. */
  grown() {
    if (this.isFollowing) {
      this.list.scrollTop = this.list.scrollHeight;
    }
  }

  toEnd() {
    this.isFollowing = true;
    this.grown();
    this.onchange(true);
  }
}
