"""What browser tests share: a Chromium that talks to nobody but us, and pages that are watched."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.e2e.site import artifacts

#: A browser that talks to nobody but us.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 390, "height": 844}
HOME = "/admin/backends/llm-backend/"


@dataclass
class Watched:
    """A page, and everything it did that no page of ours may do."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))

    def _heard(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in {"error", "warning"}:
            self.errors.append(f"{kind}: {text}")

    def forgive(self, words: str) -> None:
        """Forget errors with these words: what the browser itself says of a line that was cut on purpose."""
        self.errors = [error for error in self.errors if words not in error]

    def check(self, url: str) -> None:
        """Fail where there was an error on the console, or a request to anybody but the site at ``url``."""
        assert not self.errors, "\n".join(self.errors)
        assert [asked for asked in self.requests if not _is_of(asked, url)] == []


def _is_of(asked: str, url: str) -> bool:
    parts = urlsplit(asked)
    return parts.scheme in {"data", "blob"} or parts.netloc == urlsplit(url).netloc


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def person(
    browser: Browser, url: str, username: str, password: str, **context: Any
) -> Iterator[Watched]:
    """Open a window of somebody's own, signed in."""
    opened = browser.new_context(base_url=url, viewport=WIDE, **context)  # type: ignore[arg-type]
    opened.set_default_timeout(30_000)
    watched = Watched(opened.new_page())
    sign_in(watched.page, username, password)
    try:
        yield watched
    finally:
        opened.close()


def sign_in(page: Page, username: str, password: str) -> None:
    """Fill in the form, and be on the first page."""
    page.goto("/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**{HOME}")


def themed(page: Page, theme: str) -> None:
    """Show the page in one theme, as the switch in its corner does."""
    page.evaluate(
        "theme => document.documentElement.classList.toggle('dark', theme === 'dark')", theme
    )


def shoot(page: Page, name: str) -> None:
    """Keep the page as a person sees it: both themes, wide and narrow, nothing wider than the window."""
    page.mouse.move(0, 0)
    for theme in ("light", "dark"):
        themed(page, theme)
        for size in (WIDE, NARROW):
            page.set_viewport_size({"width": size["width"], "height": size["height"]})
            page.screenshot(
                path=artifacts() / f"{name}-{theme}-{size['width']}.png",
                full_page=True,
                animations="disabled",
            )
            too_wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert too_wide <= 0, f"{name} is {too_wide} px wider than {size['width']} px"
    themed(page, "light")
    page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})


#: What axe calls findings that keep people out.
SEVERE = {"serious", "critical"}


def findings(page: Page) -> list[str]:
    """Return what axe finds on the page, serious and critical, one line each."""
    report = Axe().run(page, options={"resultTypes": ["violations"]}).response
    return [
        f"{found['impact']} {found['id']}: {found['help']}: "
        + "; ".join(node["html"][:160] for node in found["nodes"][:5])
        for found in report["violations"]
        if found["impact"] in SEVERE
    ]


#: Marks what can be reached by the Tab key and is seen with a number, and keeps how it looks without the focus.
_STOPS = """() => {
    document.activeElement?.blur();
    window.scrollTo(0, 0);
    window.mhLook = (one) => {
        const style = getComputedStyle(one);
        const outline = style.outlineStyle === "none" ? "" : `${style.outlineWidth} ${style.outlineColor}`;
        return [outline, style.boxShadow, style.borderColor].join("; ");
    };
    const able = "a[href], button, input, select, textarea, summary, [tabindex]";
    const names = new Set();
    window.mhStops = [];
    for (const one of document.querySelectorAll(able)) {
        const name = one.type === "radio" && one.name;
        const box = one.getBoundingClientRect();
        const shown = one.checkVisibility({ visibilityProperty: true }) && box.width > 0 && box.height > 0;
        if (one.tabIndex < 0 || one.disabled || one.closest("[inert]") || !shown || names.has(name)) {
            continue;
        }
        if (name) {
            names.add(name);
        }
        window.mhStops.push([one, window.mhLook(one)]);
    }
    return window.mhStops.map(([one]) => one.outerHTML.slice(0, 160));
}"""
#: What has the focus: which of them it is, and whether it looks as it did without.
_FOCUSED = """() => {
    const one = document.activeElement;
    if (!one || one === document.body || one === document.documentElement) {
        return null;
    }
    const number = window.mhStops.findIndex(([stop]) => stop === one);
    const same = number >= 0 && window.mhLook(one) === window.mhStops[number][1];
    return { number, same, html: one.outerHTML.slice(0, 160) };
}"""


def tabbed(page: Page) -> list[str]:
    """Go through a page by the Tab key; return what is wrong: what is not reached, or does not show the focus."""
    for _ in range(3):
        wrong = _tabbed(page)
        # A part that was put in place anew meanwhile has none of the stops that were noted.
        if page.evaluate("() => window.mhStops.every(([one]) => one.isConnected)"):
            break
    return wrong


def _tabbed(page: Page) -> list[str]:
    stops = page.evaluate(_STOPS)
    assert stops
    reached, wrong = set(), []
    for _ in range(len(stops) + 20):
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused is None:
            break
        reached.add(focused["number"])
        if focused["same"]:
            wrong.append(f"has the focus, and does not show it: {focused['html']}")
    else:
        wrong.append(
            f"after {len(stops) + 20} times Tab the page is not left: the focus is trapped"
        )
    return wrong + [
        f"is not reached: {html}" for number, html in enumerate(stops) if number not in reached
    ]
