"""The Chat page in a real Chromium, on a whole site with fake engines that say what a test wants to see."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    Locator,
    Page,
    Route,
    expect,
)

from tests.backends.faults.whole_site import PASSWORD, WholeSite, until, whole_site
from tests.e2e.browsing import NARROW, WIDE, findings, themed
from tests.e2e.site import artifacts

pytestmark = [pytest.mark.browser, pytest.mark.process]

PAGE = "/admin/router/chat/"
SECONDS = 15_000
RICH = """## Comparing *two* cities

| City | People |
|:--|--:|
| Paris | 2.1 million |
| Lyon | 0.5 million |

1. First **this**,
2. then `that`:
   - with care,
   - [and a link](https://example.org/x "a title").

```python
def capital(country: str) -> str:
    return {"France": "Paris"}[country]
```

> A quotation, H<sub>2</sub>O and a <blink>tag</blink>.

- [x] done
- [ ] not yet
"""
#: What a model may say to have something run, loaded or shown where it must not be.
HOSTILE = [
    "<script>window.mhHacked = 1</script>",
    "<img src=x onerror='window.mhHacked = 2'>",
    "<svg onload='window.mhHacked = 3'><script>window.mhHacked = 3</script></svg>",
    "<svg><animate onbegin='window.mhHacked=4' attributeName=x dur=1s></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.mhHacked=5&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=window.mhHacked=6>",
    "<noscript><p title='</noscript><img src=x onerror=window.mhHacked=7>'></noscript>",
    "<iframe srcdoc='<script>parent.mhHacked = 8</script>'></iframe>",
    "<iframe src='javascript:parent.mhHacked=9'></iframe>",
    "<object data='data:text/html,<script>parent.mhHacked=10</script>'></object>",
    "<details open ontoggle='window.mhHacked = 11'>x</details>",
    "<a href='javascript:window.mhHacked=12'>click</a>",
    "[click](javascript:window.mhHacked=13)",
    "[click](JaVaScRiPt:window.mhHacked=14)",
    "[click](java\tscript:window.mhHacked=15)",
    "[click](&#106;avascript:window.mhHacked=16)",
    "[click](data:text/html;base64,PHNjcmlwdD5wYXJlbnQubWhIYWNrZWQ9MTc8L3NjcmlwdD4=)",
    "[click](vbscript:msgbox)",
    '[click](https://example.org/" onmouseover="window.mhHacked=18)',
    "[click][ref]\n\n[ref]: javascript:window.mhHacked=19",
    '![x](x" onerror="window.mhHacked=20)',
    "![picture](https://evil.example/pixel.png)",
    "![picture](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "<javascript:window.mhHacked=21>",
    '```html" onclick="window.mhHacked=22\n<script>window.mhHacked = 22</script>\n```',
    "```\n</code></pre><script>window.mhHacked = 23</script>\n```",
    "`</code><img src=x onerror=window.mhHacked=24>`",
    "# <img src=x onerror=window.mhHacked=25>",
    "| <img src=x onerror=window.mhHacked=26> |\n|--|\n| <script>window.mhHacked=26</script> |",
    "<div x-data x-init='window.mhHacked = 27' @click='window.mhHacked = 27'>x</div>",
    "<base href='https://evil.example/'><meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<link rel=stylesheet href='https://evil.example/x.css'><style>@import 'https://evil.example/y.css'</style>",
    "<form action='https://evil.example'><input name=cookie><button>Go</button></form>",
    "<p id='mh-config' class='mh-card' style='position:fixed;inset:0' data-send>over everything</p>",
    "<br onclick='window.mhHacked = 28'><sub onmouseover=window.mhHacked=29>x</sub>",
    "<br/><kbd><sub>open and never closed",
    "\x00<scr\x00ipt>window.mhHacked = 30</scr\x00ipt>".replace("\x00", "\ufffd"),
]


@dataclass
class Chatting:
    """The page of somebody who chats, and what their browser did."""

    site: WholeSite
    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda m: m.type in {"error", "warning"} and self._heard(m.text))
        self.page.on("pageerror", lambda error: self._heard(f"uncaught: {error.stack or error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", self._socket)

    def _heard(self, text: str) -> None:
        self.errors.append(text)

    def _socket(self, socket: Any) -> None:
        if "/ws/chat/" in socket.url:
            socket.on("framesent", lambda text: self.sent.append(json.loads(text)))

    @property
    def chats(self) -> list[dict[str, Any]]:
        """What was asked over the socket, oldest first."""
        return [frame for frame in self.sent if frame["type"] == "chat"]

    def check(self) -> None:
        """Fail where there was an error on the console, or a request to anybody but the site."""
        assert self.errors == []
        mine = urlsplit(self.site.url).netloc
        foreign = [url for url in self.requests if urlsplit(url).netloc not in {mine, ""}]
        assert foreign == []

    def open(self, username: str = "owner", password: str = PASSWORD) -> None:
        self.page.goto(f"/admin/login/?next={PAGE}")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"**{PAGE}")

    def column(self, number: int = 0) -> Locator:
        return self.page.locator("[data-column]").nth(number)

    def prompt(self, number: int = 0) -> Locator:
        return self.column(number).locator("textarea[data-prompt]")

    def answers(self, number: int = 0) -> Locator:
        return self.column(number).locator("[data-role=assistant]")

    def notes(self, number: int = 0) -> Locator:
        return self.answers(number).locator("[data-chat-usage]")

    def ask(self, text: str, box: Locator | None = None) -> None:
        place = box or self.prompt()
        place.fill(text)
        place.press("Enter")

    def button(self, name: str, inside: Locator | None = None) -> Locator:
        return (inside or self.page).get_by_role("button", name=name, exact=True)


DONE = re.compile(
    r"^\d+ tokens? · first after .* in all( · .* of it waiting)? · prompt of \d+ tokens$"
)
expect.set_options(timeout=SECONDS)


@pytest.fixture(scope="module")
def running_site() -> Iterator[WholeSite]:
    with whole_site() as running:
        yield running


@pytest.fixture
def site(running_site: WholeSite) -> Iterator[WholeSite]:
    """The site with one engine that serves and says what it is asked."""
    if running_site.serving() != "left":
        running_site.calm()
        running_site.start("left")
    behave(running_site, "echo")
    yield running_site
    running_site.hold(None)


@pytest.fixture
def context(browser: Browser, site: WholeSite) -> Iterator[BrowserContext]:
    made = browser.new_context(base_url=site.url, viewport=WIDE)
    made.set_default_timeout(30_000)
    yield made
    made.close()


@pytest.fixture
def chatting(context: BrowserContext, site: WholeSite) -> Chatting:
    found = Chatting(site, context.new_page())
    found.open()
    return found


def behave(site: WholeSite, *behaviour: str, name: str = "left", **more: Any) -> None:
    body = {"behaviour": list(behaviour), "token_delay": 0.0, "tokens": 0, **more}
    httpx.post(
        f"http://127.0.0.1:{site.ports[name]}/_fake/behaviour", json=body, trust_env=False
    ).raise_for_status()


def state(site: WholeSite, name: str = "left") -> dict[str, Any]:
    url = f"http://127.0.0.1:{site.ports[name]}/_fake/state"
    return dict(httpx.get(url, trust_env=False).json())


def shoot(page: Page, name: str) -> None:
    """Keep the window as a person sees it: both themes, wide and narrow, usable by everybody."""
    for theme in ("light", "dark"):
        themed(page, theme)
        for size in (WIDE, NARROW):
            page.set_viewport_size({"width": size["width"], "height": size["height"]})
            path = artifacts() / f"{name}-{theme}-{size['width']}.png"
            page.screenshot(path=path, animations="disabled")
            too_wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert too_wide <= 0, f"{name} is {too_wide} px wider than {size['width']} px"
            assert findings(page) == []
    themed(page, "light")
    page.set_viewport_size({"width": WIDE["width"], "height": WIDE["height"]})


def lengths_of(page: Page) -> Callable[[], list[int]]:
    """Note every length the last answer has on the page; returns a function that reads them."""
    page.evaluate(
        """() => {
            window.mhLengths = new Set();
            const list = document.querySelector("[data-list]");
            new MutationObserver(() => {
                const texts = list.querySelectorAll("[data-role=assistant] .mh-message__text");
                window.mhLengths.add(texts.length ? texts[texts.length - 1].textContent.length : 0);
            }).observe(list, { childList: true, subtree: true, characterData: true });
        }"""
    )
    return lambda: list(page.evaluate("[...window.mhLengths]"))


def test_an_answer_grows_can_be_stopped_asked_for_again_and_its_question_changed(
    chatting: Chatting, site: WholeSite
) -> None:
    page = chatting.page
    expect(chatting.column().locator("[data-empty]")).to_be_visible()
    behave(site, "echo", token_delay=0.02)
    lengths = lengths_of(page)
    chatting.ask("One two three four five six seven eight nine ten eleven twelve.")
    expect(chatting.notes()).to_have_text(DONE)
    assert len(lengths()) > 3, "the answer did not grow on the page"
    expect(chatting.answers().locator("[data-chat-from]")).to_have_text("fake-model on left")
    expect(chatting.prompt()).to_be_focused()
    expect(page.locator("#mh-announce")).to_have_text(re.compile(r"^Answer: One two"))

    behave(site, token_delay=0.05, tokens=2000)
    chatting.ask("Go on for ever.")
    expect(chatting.answers().last.locator(".mh-message__text")).not_to_be_empty(timeout=SECONDS)
    before = state(site)["aborted"]
    chatting.button("Stop").click()
    expect(chatting.notes().last).to_have_text("Stopped.")
    expect(chatting.prompt()).to_be_focused()
    until(lambda: state(site)["aborted"] == before + 1, 10, "the engine stops, too")

    behave(site, "echo")
    chatting.button("Try again").click()
    expect(chatting.answers().last.locator(".mh-message__text")).to_have_text("Go on for ever.")
    expect(chatting.answers()).to_have_count(2)
    chatting.button("Edit").click()
    editor = page.get_by_label("Edit the message")
    expect(editor).to_be_focused()
    editor.fill("Say something **else**.")
    editor.press("Enter")
    last = chatting.answers().last.locator(".mh-message__text")
    expect(last).to_have_text("Say something else.")
    expect(chatting.answers()).to_have_count(2)
    roles = [message["role"] for message in chatting.chats[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    chatting.button("Regenerate").click()
    expect(chatting.notes().last).to_have_text(DONE)
    chatting.button("Clear").click()
    expect(chatting.answers()).to_have_count(0)
    chatting.button("Undo clearing").click()
    expect(chatting.answers()).to_have_count(2)
    chatting.check()


def test_two_conversations_are_asked_at_once_each_with_its_own_settings(
    chatting: Chatting, site: WholeSite
) -> None:
    page = chatting.page
    behave(site, "echo", token_delay=0.02)
    chatting.button("Compare with another").click()
    second = chatting.column(1)
    second.get_by_label("Who answers").select_option("role:persona")
    second.get_by_text("Settings").click()
    second.get_by_label("System prompt").fill("You are terse.")
    second.get_by_label("Temperature").fill("0.1")
    second.get_by_label("Thinking").select_option("high")
    expect(second.locator("[data-settings-summary]")).to_have_text(
        "system prompt, temperature 0.1, thinking high"
    )
    second.get_by_text("Settings").click()
    box = page.get_by_label("Message to all conversations")
    chatting.ask(RICH, box)
    for number in (0, 1):
        expect(chatting.notes(number)).to_have_text(DONE)
        expect(chatting.answers(number).locator("table")).to_have_count(1)
    plain, terse = chatting.chats
    assert "role" not in plain
    assert plain["options"] == {}
    assert (terse["role"], terse["options"]) == ("persona", {"temperature": 0.1, "think": "high"})
    assert terse["messages"][0] == {"role": "system", "content": "You are terse."}
    expect(box).to_be_focused()
    shoot(page, "chat-compared")

    behave(site, token_delay=0.05, tokens=2000)
    chatting.ask("Go on for ever.", box)
    for number in (0, 1):
        text = chatting.answers(number).last.locator(".mh-message__text")
        expect(text).not_to_be_empty(timeout=SECONDS)
    chatting.button("Stop this one", second).click()
    expect(chatting.notes(1).last).to_have_text("Stopped.")
    expect(chatting.answers(0).last).to_have_attribute("aria-busy", "true")
    chatting.button("Stop all").click()
    expect(chatting.notes(0).last).to_have_text("Stopped.")
    chatting.button("Remove this conversation", second).click()
    expect(page.locator("[data-column]")).to_have_count(1)
    expect(chatting.prompt()).to_be_visible()
    chatting.check()


def test_a_reload_keeps_conversations_for_their_user_only_and_deleting_deletes_them(
    chatting: Chatting, site: WholeSite, context: BrowserContext
) -> None:
    page = chatting.page
    chatting.ask("Remember **this**.")
    expect(chatting.notes()).to_have_text(DONE)
    page.reload()
    expect(chatting.answers().locator("strong")).to_have_text("this")
    expect(chatting.notes()).to_have_text(DONE)
    other = Chatting(site, context.new_page())
    other.page.goto(PAGE)
    expect(other.answers()).to_have_count(1)

    behave(site, token_delay=0.05, tokens=2000)
    chatting.ask("Go on for ever.")
    expect(chatting.answers().last.locator(".mh-message__text")).not_to_be_empty(timeout=SECONDS)
    page.wait_for_function(
        "() => Object.values(sessionStorage).some(text => text.includes('wörd'))"
    )
    page.reload()
    error = chatting.answers().last.locator(".mh-message__error")
    expect(error).to_have_text(re.compile(r"^The page was left before this answer was complete"))

    keys = page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('mh-chat:'))")
    assert len(keys) == 1
    assert re.fullmatch(r"mh-chat:\d+", keys[0])
    # Somebody else in the same browser finds nothing of it.
    somebody_else = keys[0] + "0"
    page.evaluate(
        "([mine, other]) => localStorage.setItem(other, '{broken')", [keys[0], somebody_else]
    )
    chatting.button("Delete all conversations").click()
    chatting.button("Delete").click()
    expect(chatting.answers()).to_have_count(0)
    expect(other.answers()).to_have_count(0)
    expect(chatting.prompt()).to_be_focused()
    left = page.evaluate("[...Object.keys(localStorage), ...Object.keys(sessionStorage)]")
    assert [key for key in left if key.startswith("mh-chat")] == [somebody_else]
    chatting.check()
    other.check()


def test_reasoning_is_folded_and_tool_calls_are_shown_and_answered(
    chatting: Chatting, site: WholeSite
) -> None:
    page = chatting.page
    behave(site, "echo", "reasoning", token_delay=0.3)
    chatting.ask("Hm?")
    summary = chatting.answers().locator("summary")
    expect(summary).to_have_text(re.compile("^Thinking…"))
    thoughts = chatting.answers().locator(".mh-message__thoughts")
    expect(thoughts).to_be_hidden()
    expect(summary).to_have_text(re.compile(r"^Thought for (a moment|\d+ s)$"))
    expect(chatting.answers().locator(".mh-message__text")).to_have_text("Hm?")
    summary.click()
    expect(thoughts).to_have_text("Let me think.")
    chatting.ask("And now?")
    expect(chatting.notes().last).to_have_text(DONE)
    assert chatting.chats[-1]["messages"][1] == {"role": "assistant", "content": "Hm?"}

    behave(site, "tool")
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    chatting.column().get_by_text("Settings").click()
    chatting.column().get_by_label("Tools, as JSON").fill("[{")
    chatting.ask("Will it rain?")
    expect(chatting.column().locator("[data-tools-error]")).to_contain_text("This is not JSON")
    expect(chatting.column().get_by_label("Tools, as JSON")).to_be_focused()
    chatting.column().get_by_label("Tools, as JSON").fill(json.dumps(tools))
    chatting.column().get_by_text("Settings").click()
    chatting.prompt().press("Enter")
    expect(chatting.notes().last).to_contain_text("waits for its tools")
    call = chatting.answers().last.locator(".mh-call")
    expect(call.locator("code")).to_have_text("weather")
    expect(call.locator("pre")).to_have_text('{\n  "city": "Paris"\n}')
    shoot(page, "chat-tools")
    behave(site, "echo")
    chatting.button("Answer the calls").click()
    page.get_by_label("What weather gave").fill("It rains.")
    chatting.button("Go on with these").click()
    expect(chatting.answers().last.locator(".mh-message__text")).to_have_text("It rains.")
    sent = chatting.chats[-1]
    assert sent["tools"] == tools
    assert [message["role"] for message in sent["messages"][-2:]] == ["assistant", "tool"]
    assert sent["messages"][-1]["tool_call_id"] == sent["messages"][-2]["tool_calls"][0]["id"]
    chatting.check()


def test_images_are_sent_and_not_kept(chatting: Chatting, site: WholeSite) -> None:
    behave(site, "echo", "vision")
    png = artifacts() / "chat-image.png"
    chatting.page.screenshot(path=png)
    composer = chatting.column().locator("[data-composer]")
    composer.locator("[data-attach]").set_input_files([png, __file__])
    expect(composer.locator("[data-hint]")).to_contain_text(
        "is no image that this browser can read"
    )
    expect(composer.locator("[data-images] img")).to_have_count(1)
    chatting.ask("What is this?")
    expect(chatting.notes()).to_have_text(DONE)
    text, image = chatting.chats[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    expect(composer.locator("[data-images] img")).to_have_count(0)
    chatting.page.reload()
    expect(chatting.column().locator("[data-role=user]")).to_contain_text("1 image, not kept")
    chatting.check()


def test_nothing_a_model_says_runs_or_is_loaded(chatting: Chatting) -> None:
    page = chatting.page
    everything = [*HOSTILE, "\n\n".join(HOSTILE)]
    for text in everything:
        chatting.ask(text)
        expect(chatting.prompt()).to_have_value("")
        expect(chatting.button("Regenerate")).to_be_visible(timeout=SECONDS)
        for shown in (
            chatting.answers().last.locator(".mh-message__text :is(a, code, sub, kbd)").all()
        ):
            shown.dispatch_event("mouseover")
        for link in chatting.answers().last.locator("a").all():
            assert link.get_attribute("rel") == "noopener noreferrer nofollow"
            assert link.get_attribute("target") == "_blank"
            assert re.match(r"https?:|mailto:", link.get_attribute("href") or "")
        chatting.button("Clear").click()
    assert page.evaluate("window.mhHacked") is None
    chatting.ask(everything[-1])
    expect(chatting.button("Regenerate")).to_be_visible(timeout=SECONDS)
    page.reload()
    expect(chatting.answers()).to_have_count(1)
    found = chatting.answers().evaluate(
        """answer => [...answer.querySelectorAll(".mh-message__text *")].flatMap(element => [
            element.localName,
            ...element.getAttributeNames().map(name => `${element.localName} ${name}`),
        ])"""
    )
    tags = {name for name in found if " " not in name}
    assert not tags & {"script", "style", "img", "svg", "math", "iframe", "object", "form", "input"}
    attributes = {name.partition(" ")[2] for name in found if " " in name}
    assert attributes <= {
        "href",
        "rel",
        "target",
        "title",
        "class",
        "align",
        "start",
        "tabindex",
        "type",
    }
    assert page.evaluate("window.mhHacked") is None
    chatting.check()


def test_text_that_comes_in_pieces_looks_as_if_it_had_come_at_once(chatting: Chatting) -> None:
    texts = [
        RICH,
        *HOSTILE,
        "Title\n---\n\n- a\n\n- b\n\n  more\n\nText [x][1]\n\n[1]: https://example.org\n",
    ]
    texts += [
        "```\nnever closed",
        "a | b\n--|--\n1 | 2\n\nafter",
        "line\r\nline\r\n\r\n1. x\r\n2. y",
    ]
    different = chatting.page.evaluate(
        """async texts => {
            const { MarkdownView } = await import("/static/mh/markdown.js");
            const html = (text, size) => {
                const root = document.createElement("div");
                const view = new MarkdownView(root);
                for (let at = 0; at < text.length; at += size) {
                    view.add(text.slice(at, at + size));
                    view.draw();
                }
                view.finish();
                return root.innerHTML;
            };
            return texts.flatMap(text => [1, 3, 7].filter(size => html(text, size) !== html(text, 1e9)).map(size => [size, text]));
        }""",
        texts,
    )
    assert different == []


def test_a_long_answer_leaves_what_is_complete_alone(chatting: Chatting, site: WholeSite) -> None:
    page = chatting.page
    # One word each: the engine's context is counted in words, and is not what this is about.
    paragraphs = [f"Paragraph-{n}-" + "says-*this*-and-`that`.-" * 8 for n in range(120)]
    behave(site, "echo", token_delay=0.0005)
    page.evaluate(
        """() => {
            window.mhFirst = null;
            window.mhDrawn = 0;
            window.mhTasks = [];
            new PerformanceObserver(list => window.mhTasks.push(...list.getEntries().map(one => one.duration)))
                .observe({ type: "longtask" });
            const list = document.querySelector("[data-list]");
            new MutationObserver(changes => {
                const text = list.querySelector("[data-role=assistant] .mh-message__text");
                if (text?.children.length > 1) {
                    window.mhFirst ??= text.firstElementChild;
                }
                window.mhDrawn += changes.flatMap(change => [...change.addedNodes]).filter(node => node.localName === "p").length;
            }).observe(list, { childList: true, subtree: true });
        }"""
    )
    chatting.ask("\n\n".join([*paragraphs, "The end."]))
    text = chatting.answers().locator(".mh-message__text")
    expect(text.locator("p").last).to_have_text("The end.", timeout=90_000)
    expect(chatting.notes()).to_have_text(DONE)
    assert page.evaluate("window.mhFirst.isConnected"), "the first paragraph was made again"
    tokens = int((chatting.notes().text_content() or "0").split()[0])
    tasks = page.evaluate("window.mhTasks")
    drawn = page.evaluate("window.mhDrawn")
    print(
        f"{tokens} tokens, {drawn} paragraphs made, tasks over 50 ms: {[round(t) for t in tasks]}"
    )
    assert tokens > 4000
    # Each paragraph again and again would be 121 * frames.
    assert drawn < 121 + 3 * tokens
    at_end = "list => list.scrollHeight - list.scrollTop - list.clientHeight < 5"
    assert chatting.column().locator("[data-list]").evaluate(at_end)
    chatting.check()


def test_who_scrolls_up_to_read_stays_there(chatting: Chatting, site: WholeSite) -> None:
    page = chatting.page
    chatting.ask("\n\n".join(f"Line {n}" for n in range(60)))
    expect(chatting.notes()).to_have_text(DONE)
    behave(site, token_delay=0.02, tokens=3000)
    chatting.ask("Go on for ever.")
    expect(chatting.answers().last.locator(".mh-message__text")).not_to_be_empty(timeout=SECONDS)
    here = chatting.column().locator("[data-list]")
    here.hover()
    page.mouse.wheel(0, -600)
    jump = chatting.column().get_by_role("button", name="Newest ↓")
    expect(jump).to_be_visible()
    at = here.evaluate("list => list.scrollTop")
    long = "() => [...document.querySelectorAll('[data-list] .mh-message__text')].at(-1).textContent.length"
    before = page.evaluate(long)
    page.wait_for_function(f"before => ({long})() > before + 500", arg=before)
    assert here.evaluate("list => list.scrollTop") == at
    jump.click()
    expect(jump).to_be_hidden()
    chatting.button("Stop").click()
    chatting.check()


def test_a_switch_by_somebody_else_holds_a_question_and_then_it_is_answered(
    chatting: Chatting, site: WholeSite
) -> None:
    page = chatting.page
    behave(site, "echo", token_delay=0.02)
    chatting.ask("Word. " * 40)
    expect(chatting.answers().locator(".mh-message__text")).not_to_be_empty(timeout=SECONDS)
    site.hold({"kind": "switch", "step": "start", "when": "before"})
    site.ask("switch", "right")
    # What streams is let finish, with the engine it began with.
    expect(chatting.notes()).to_have_text(DONE)
    until(site.is_held, 30, "the switch waits before it starts the other engine")
    chatting.ask("Who is there?")
    expect(chatting.column().locator("[data-availability]")).to_contain_text("waits for it")
    expect(chatting.notes().last).to_contain_text("Place 1 in the queue")
    shoot(page, "chat-held")
    site.hold(None)
    expect(chatting.answers().last.locator("[data-chat-from]")).to_have_text(
        "fake-model on right", timeout=30_000
    )
    expect(chatting.notes().last).to_contain_text("of it waiting")
    expect(chatting.answers().first.locator("[data-chat-from]")).to_have_text("fake-model on left")
    chatting.check()


def test_a_lost_connection_is_said_and_the_page_comes_back(
    chatting: Chatting, site: WholeSite
) -> None:
    behave(site, token_delay=0.05, tokens=5000)
    chatting.ask("Go on for ever.")
    expect(chatting.answers().locator(".mh-message__text")).not_to_be_empty(timeout=SECONDS)
    site.parts()["web"].kill()
    expect(chatting.answers().locator(".mh-message__error")).to_have_text(
        re.compile("^The connection was lost, and with it the rest"), timeout=SECONDS
    )
    connection = chatting.page.locator("[data-connection]")
    expect(connection).to_have_text("Connection lost, reconnecting…")
    behave(site, "echo")
    # What is sent meanwhile goes when the page is back, as it was typed last.
    hint = chatting.column().locator("[data-hint]")
    chatting.ask("Is anybody")
    expect(hint).to_have_text("Goes as soon as the page is connected.")
    chatting.prompt().press_sequentially(" there?")
    expect(hint).to_have_text(re.compile("^Enter sends"))
    chatting.prompt().press("Enter")
    expect(connection).to_be_empty(timeout=60_000)
    expect(chatting.answers().last.locator(".mh-message__text")).to_have_text("Is anybody there?")
    expect(chatting.prompt()).to_be_empty()
    assert len(chatting.chats) == 2
    chatting.button("Regenerate").click()
    expect(chatting.answers()).to_have_count(2)
    # The browser itself says on the console that a socket could not connect; nothing else may.
    chatting.errors = [e for e in chatting.errors if "WebSocket connection" not in e]
    chatting.check()


#: Sockets of the page that take a second longer to open.
SLOW_LINE = """
    const Real = window.WebSocket;
    window.WebSocket = class extends Real {
        slow = true;
        get readyState() {
            return this.slow ? Real.CONNECTING : super.readyState;
        }
        addEventListener(type, heard) {
            super.addEventListener(type, type !== "open" ? heard : event => setTimeout(() => {
                this.slow = false;
                heard(event);
            }, 1000));
        }
    };
"""


def test_a_question_sent_before_the_page_is_connected_goes_when_it_is(
    context: BrowserContext, site: WholeSite
) -> None:
    context.add_init_script(SLOW_LINE)
    chatting = Chatting(site, context.new_page())
    chatting.open()
    chatting.ask("Too early?")
    expect(chatting.page.locator("[data-connection]")).to_have_text("Connecting…")
    expect(chatting.answers().locator(".mh-message__text")).to_have_text("Too early?")
    expect(chatting.prompt()).to_be_empty()
    chatting.check()


def test_what_cannot_be_answered_says_why_and_what_to_do(
    chatting: Chatting, site: WholeSite
) -> None:
    chatting.column().get_by_text("Settings").click()
    chatting.column().get_by_label("Longest answer, tokens").fill("0")
    chatting.ask("Too little?")
    expect(chatting.column().get_by_label("Longest answer, tokens")).to_be_focused()
    assert chatting.chats == []
    chatting.column().get_by_label("Longest answer, tokens").fill("2")
    chatting.prompt().press("Enter")
    expect(chatting.notes()).to_contain_text("cut at the length limit")
    site.ask("stop", "left", wait=60)
    expect(chatting.column().locator("[data-availability]")).to_have_text("Nothing is running now.")
    chatting.ask("Anybody?")
    error = chatting.answers().last.locator(".mh-message__error")
    expect(error).to_contain_text("not running")
    expect(error.get_by_role("link")).to_have_attribute("href", "/admin/backends/llm-backend/")
    site.start("left")
    behave(site, "echo")
    expect(chatting.column().locator("[data-availability]")).to_be_hidden()
    chatting.button("Try again").click()
    expect(chatting.answers().last.locator(".mh-message__text")).to_have_text("Anybody?")
    chatting.check()


def test_an_old_answer_does_not_come_over_a_newer_one(chatting: Chatting, site: WholeSite) -> None:
    """Who can answer is asked for again with each change, and the first to be asked may be the last to say."""
    page = chatting.page
    late: list[tuple[Route, APIResponse]] = []
    is_held = True

    def hold(route: Route) -> None:
        if is_held:
            late.append((route, route.fetch()))
        else:
            route.continue_()

    def served_of(answer: APIResponse) -> list[str]:
        return [model["id"] for model in answer.json()["data"] if model["owned_by"] != "mh"]

    page.route("**/v1/models", hold)
    site.ask("stop", "left", wait=60)
    until(
        lambda: page.wait_for_timeout(50) or (late and not served_of(late[-1][1])),
        seconds=20,
        what="the list without an engine",
    )
    is_held = False
    site.start("left")
    served = chatting.column().locator("optgroup[label='Served now'] option")
    expect(served).not_to_have_count(0)
    page.wait_for_timeout(1500)  # until nothing changes any more, and nobody asks again
    for route, answer in late:
        route.fulfill(response=answer)
    page.wait_for_timeout(300)
    expect(served).not_to_have_count(0)
    chatting.check()


def test_the_page_works_by_keyboard_alone_and_on_a_phone(
    chatting: Chatting, context: BrowserContext
) -> None:
    page = chatting.page
    page.set_viewport_size({"width": NARROW["width"], "height": NARROW["height"]})
    chatting.button("Compare with another").focus()
    page.keyboard.press("Enter")
    expect(chatting.column(1).get_by_label("Who answers")).to_be_focused()
    tabs = page.get_by_role("navigation", name="Conversations").get_by_role("button")
    expect(tabs.nth(1)).to_have_attribute("aria-current", "true")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('[data-all] textarea')"):
            break
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    for number in (0, 1):
        expect(chatting.notes(number)).to_have_text(DONE)
    assert chatting.chats[0]["messages"] == [{"role": "user", "content": "First line\nsecond line"}]
    tabs.first.focus()
    page.keyboard.press("Enter")
    expect(tabs.first).to_have_attribute("aria-current", "true")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    chatting.check()


def test_without_javascript_one_prompt_is_answered_whole_or_refused_in_a_sentence(
    browser: Browser, site: WholeSite
) -> None:
    context = browser.new_context(base_url=site.url, viewport=NARROW, java_script_enabled=False)
    try:
        chatting = Chatting(site, context.new_page())
        chatting.open()
        page = chatting.page
        expect(page.locator("#chat")).to_be_hidden()
        page.get_by_role("textbox", name="Prompt").fill("Say <b>this</b>.")
        page.get_by_label("Who answers").select_option("persona")
        page.get_by_role("button", name="Send").click()
        answer = page.locator("[data-role=assistant]")
        expect(answer.locator(".mh-message__text")).to_have_text("Say <b>this</b>.")
        expect(answer).to_contain_text("fake-model on left")
        page.screenshot(path=artifacts() / "chat-plain-light-390.png", full_page=True)
        site.ask("stop", "left", wait=60)
        page.get_by_role("textbox", name="Prompt").fill("Anybody?")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert").first).to_contain_text("not running")
        expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Anybody?")
        # The browser itself notes the status of the page that says so.
        chatting.errors = [error for error in chatting.errors if "status of 503" not in error]
        chatting.check()
    finally:
        context.close()
