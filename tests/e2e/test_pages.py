"""Every settings page in a real Chromium, over a site whose engines are fakes in real processes."""

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from accounts.pages import Page as SettingsPage
from mhsite.pages import pages
from tests.backends.faults.whole_site import PASSWORD, WholeSite, until
from tests.e2e import browsing
from tests.e2e.browsing import HOME, Watched, person
from tests.e2e.fake_site import fake_site

pytestmark = [pytest.mark.browser, pytest.mark.process]

OWNER = "owner"
STANDARD, GUEST, SECOND = "stan", "gus", "olga"
OTHER_PASSWORD = "pw-of-somebody-else-1"


@pytest.fixture(scope="module")
def fakes() -> Iterator[WholeSite]:
    with fake_site() as site:
        for name, role in ((STANDARD, "standard"), (GUEST, "guest"), (SECOND, "owner")):
            site.add_person(name, role, OTHER_PASSWORD)
        yield site


@pytest.fixture
def owner(browser: Browser, fakes: WholeSite) -> Iterator[Watched]:
    with person(browser, fakes.url, OWNER, PASSWORD) as watched:
        yield watched
        watched.check(fakes.url)


@pytest.fixture
def serving(fakes: WholeSite) -> WholeSite:
    """vLLM serves, and nothing else does."""
    if not fakes.status()["available"]["vllm"]["running"]:
        done = fakes.ask("switch", "vllm", wait=60)
        assert done["state"] == "succeeded", done
    return fakes


def word(page: Page, name: str) -> Any:
    return expect(page.locator(f"section[data-backend={name}] [data-word]"))


# --- every page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", pages(), ids=lambda page: page.name)
def test_a_page_is_usable_by_everybody_in_both_themes_and_widths(
    owner: Watched, serving: WholeSite, shown: SettingsPage
) -> None:
    page = owner.page
    assert serving.chat(model="role:persona").status_code == 200
    page.goto(f"/admin/{shown.path}")
    expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
    expect(page.locator("h1")).to_contain_text(shown.title)
    page.wait_for_load_state("networkidle")
    browsing.shoot(page, f"page-{shown.name}")
    for theme in ("light", "dark"):
        browsing.themed(page, theme)
        assert browsing.findings(page) == []
    assert browsing.tabbed(page) == []


@pytest.mark.parametrize("shown", pages(), ids=lambda page: page.name)
def test_a_page_can_be_read_without_javascript(
    browser: Browser, serving: WholeSite, shown: SettingsPage
) -> None:
    with person(browser, serving.url, OWNER, PASSWORD, java_script_enabled=False) as watched:
        answer = watched.page.goto(f"/admin/{shown.path}")
        assert answer is not None
        assert answer.status == 200
        expect(watched.page.locator("#mh")).to_be_visible()
        assert len(watched.page.locator("#mh").inner_text()) > 40


@pytest.mark.parametrize("username", [STANDARD, GUEST])
def test_people_see_the_pages_that_are_theirs_and_no_others(
    browser: Browser, fakes: WholeSite, username: str
) -> None:
    with person(browser, fakes.url, username, OTHER_PASSWORD) as watched:
        page = watched.page
        links = page.locator("#nav-sidebar-apps a")
        hrefs = [links.nth(i).get_attribute("href") or "" for i in range(links.count())]
        assert HOME in hrefs
        for href in hrefs:
            answer = page.goto(href)
            assert answer is not None
            assert answer.status == 200, href
            expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
            assert browsing.findings(page) == []
        watched.check(fakes.url)


# --- what happens is seen ----------------------------------------------------------------------------


def test_a_switch_by_clicking_does_not_cut_what_streams_in_another_tab(
    owner: Watched, serving: WholeSite
) -> None:
    page = owner.page
    other = Watched(page.context.new_page())
    chat = other.page
    chat.goto(HOME)
    chat.locator("#mh-prompt").fill("Tell me a story of 60 words")
    chat.locator("#mh-prompt").press("Enter")
    answer = chat.locator("[data-role=assistant] .mh-message__text")
    expect(answer).not_to_be_empty()

    page.get_by_role("button", name="Switch to Ollama").click()
    word(page, "ollama").to_have_text("Ready", timeout=60_000)
    word(page, "vllm").to_have_text("Stopped")
    expect(page.locator("#mh-header")).to_contain_text("Ollama Ready")
    expect(page.locator("section[data-backend=ollama] [data-active]")).to_be_visible()
    expect(chat.locator("[data-chat-usage]")).to_have_text(re.compile(r"^\d+ tokens · first after"))
    expect(chat.locator("#mh-header")).to_contain_text("Ollama Ready")

    chat.locator("#mh-prompt").fill("And you?")
    chat.locator("#mh-prompt").press("Enter")
    expect(chat.locator("[data-chat-usage]")).to_have_count(2)
    other.check(serving.url)


def test_a_second_browser_sees_every_change_at_once(
    browser: Browser, owner: Watched, serving: WholeSite, capsys: pytest.CaptureFixture[str]
) -> None:
    with person(browser, serving.url, SECOND, OTHER_PASSWORD) as second:
        page = second.page
        expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
        page.evaluate(
            """() => {
                const card = document.querySelector("section[data-backend=vllm]");
                window.mhSeen = [];
                new MutationObserver(() =>
                    window.mhSeen.push([card.dataset.state, Date.now()]),
                ).observe(card, { attributes: true, attributeFilter: ["data-state"] });
            }"""
        )
        changed: list[tuple[str, float]] = []
        begun = time.time()
        stop = threading.Event()
        watching = threading.Thread(target=_note_changes, args=(serving, changed, stop))
        watching.start()
        owner.page.get_by_role("button", name="Stop vLLM", exact=True).click()
        word(page, "vllm").to_have_text("Stopped", timeout=30_000)
        owner.page.get_by_role("button", name="Start vLLM", exact=True).click()
        word(page, "vllm").to_have_text("Ready", timeout=30_000)
        stop.set()
        watching.join()
        seen = [(state, at / 1000) for state, at in page.evaluate("window.mhSeen")]
        second.check(serving.url)
    states = [state for state, _ in seen]
    assert {"stopped", "starting", "ready"} <= set(states)
    delays = [
        (
            state,
            min((at - since for name, at in seen if name == state and at >= since), default=None),
        )
        for state, since in changed
        if since >= begun
    ]
    assert "ready" in {state for state, delay in delays if delay is not None}
    with capsys.disabled():
        said = ", ".join(f"{s} {d * 1000:.0f} ms" for s, d in delays if d is not None)
        print(f"\na second browser saw each change after: {said} (promised: 250 ms)")


def _note_changes(site: WholeSite, changed: list[tuple[str, float]], stop: threading.Event) -> None:
    """Note each state of vLLM with the moment that its row names."""
    from datetime import datetime

    while not stop.is_set():
        entry = site.status()["available"]["vllm"]
        found = (entry["state"], datetime.fromisoformat(entry["since"]).timestamp())
        if found not in changed:
            changed.append(found)
        time.sleep(0.05)


@pytest.mark.parametrize("answer", ["at once", "after its end"])
def test_a_failed_start_says_why_with_the_engines_own_line(
    owner: Watched, serving: WholeSite, answer: str
) -> None:
    """Also where the answer to the click, which says that it begins, comes after the word that it has ended."""
    page = owner.page

    def held(route: Route) -> None:
        response = route.fetch()
        assert serving.operation(response.json()["id"], wait=30)["state"] == "failed"
        page.wait_for_timeout(1000)
        route.fulfill(response=response)

    def is_start(request: Request) -> bool:
        return request.url.endswith("/api/llm-backend/vllm/start")

    if answer != "at once":
        page.route("**/api/llm-backend/vllm/start", held)
    assert serving.ask("stop", "vllm", wait=60)["state"] == "succeeded"
    serving.configure("vllm", model="/nowhere/at/all")
    try:
        with page.expect_event("requestfinished", is_start):
            page.get_by_role("button", name="Start vLLM", exact=True).click()
        page.wait_for_timeout(300)
        card = page.locator("section[data-backend=vllm]")
        expect(card).to_contain_text("/nowhere/at/all", timeout=30_000)
        expect(card.locator("[data-operation-title]")).to_have_text("Start failed")
        page.goto("/admin/backends/operations/")
        run = page.locator("[data-operation-state=failed]").first
        run.locator("summary").click()
        expect(run).to_contain_text("/nowhere/at/all")
    finally:
        serving.configure("vllm", model="tiny-llama")


def test_a_lost_socket_says_so_and_recovers(owner: Watched, fakes: WholeSite) -> None:
    page = owner.page
    expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
    web = fakes.parts()["web"]
    web.kill()
    stale = page.locator("[data-header-stale]")
    expect(stale).to_have_text(re.compile(r"Reconnecting… last update \d+ s ago"), timeout=10_000)
    until(lambda: fakes.client.get("/health/ready").status_code == 200, 60, "the site is back")
    expect(page.locator("#mh-header[data-live=on]")).to_be_visible(timeout=60_000)
    expect(stale).to_be_hidden()
    owner.forgive("WebSocket connection")
    owner.forgive("Failed to load resource")


def test_two_owners_at_once_make_one_operation(
    browser: Browser, owner: Watched, fakes: WholeSite
) -> None:
    for name, entry in fakes.status()["available"].items():
        if entry["running"]:
            assert fakes.ask("stop", name, wait=60)["state"] == "succeeded"
    before = len(fakes.client.get("/api/llm-backend/operations?limit=100").json()["results"])
    with person(browser, fakes.url, SECOND, OTHER_PASSWORD) as second:
        for page in (owner.page, second.page):
            word(page, "vllm").to_have_text("Stopped")
        for page in (owner.page, second.page):
            page.get_by_role("button", name="Start vLLM", exact=True).click(no_wait_after=True)
        for page in (owner.page, second.page):
            word(page, "vllm").to_have_text("Ready", timeout=60_000)
        second.check(fakes.url)
    after = fakes.client.get("/api/llm-backend/operations?limit=100").json()["results"]
    assert len(after) == before + 1


def test_logs_come_as_they_are_written_and_can_be_searched_and_paused(
    owner: Watched, serving: WholeSite
) -> None:
    page = owner.page
    page.goto("/admin/backends/logs/?backend=vllm")
    lines = page.get_by_role("log")
    expect(page.locator("[data-log-state]")).to_have_text("Live")
    expect(lines).to_contain_text("Application startup complete.")
    page.get_by_label("Search").fill("startup COMPLETE")
    expect(lines.locator("mark").first).to_have_text("startup complete")
    expect(lines.locator("div:not([hidden])")).to_have_count(1)
    page.get_by_label("Search").fill("")
    page.get_by_role("button", name="Pause").click()
    assert serving.ask("restart", "vllm", wait=60)["state"] == "succeeded"
    expect(page.locator("[data-log-count]")).to_contain_text("more wait")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("[data-log-count]")).not_to_contain_text("more wait")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert "Application startup complete." in download.value.path().read_text()


def test_the_audit_checks_its_chain_without_leaving_the_page(
    owner: Watched, serving: WholeSite
) -> None:
    page = owner.page
    page.goto("/admin/audit/")
    page.get_by_role("button", name="Check the chain").click()
    expect(page.locator("[data-checked]")).to_contain_text("The chain is whole")
    event = page.locator(".mh-event").first
    event.locator("summary").click()
    expect(event.get_by_text("Hash")).to_be_visible()
