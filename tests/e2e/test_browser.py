"""What a person does on the settings page, in a real Chromium, with a real vLLM behind it."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.browsing import NARROW, WIDE, Watched, shoot
from tests.e2e.browsing import sign_in as sign_in_as
from tests.e2e.site import OWNER, PASSWORD, QUESTION, START_SECONDS, Site, artifacts

pytestmark = [pytest.mark.browser, pytest.mark.engine]


@pytest.fixture
def watched(browser: Browser, site: Site) -> Iterator[Watched]:
    context = browser.new_context(base_url=site.url, viewport=WIDE)
    context.set_default_timeout(30_000)
    yield Watched(context.new_page())
    context.close()


def sign_in(page: Page) -> None:
    sign_in_as(page, OWNER, PASSWORD)


def card(page: Page) -> Locator:
    return page.locator("section[data-backend=vllm]")


def expect_state(page: Page, word: str, seconds: float) -> None:
    expect(card(page).locator("[data-word]")).to_have_text(word, timeout=seconds * 1000)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def test_a_person_starts_vllm_chats_and_stops_it(watched: Watched, site: Site) -> None:
    site.stopped()
    page = watched.page
    sign_in(page)
    expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
    expect_state(page, "Stopped", 10)
    expect(page.locator("#mh-prompt")).to_be_disabled()
    expect(page.locator("#mh-chat-hint")).to_have_text("Start vLLM to chat.")
    shoot(page, "stopped")

    button(page, "Start vLLM").click()
    expect_state(page, "Starting", 15)
    expect(card(page).locator("[data-operation-title]")).to_have_text("Starting vLLM")
    expect(card(page).locator("[data-step-state=running]")).to_be_visible()
    expect(button(page, "Stop vLLM")).to_be_enabled()
    expect(button(page, "Start vLLM")).to_be_disabled()
    running = card(page).locator("[data-step-state=running] .mh-step__message")
    expect(running).not_to_be_empty(timeout=90_000)
    shoot(page, "starting")

    expect_state(page, "Ready", START_SECONDS)
    expect(card(page).locator("[data-operation-title]")).to_have_text("Start succeeded")
    expect(card(page).locator("[data-fact=model]")).to_have_text("SmolLM2-135M-Instruct")
    expect(card(page).locator("[data-fact=uptime]")).to_have_text(re.compile(r"\d+ s$"))

    lengths = watch_growth(page)
    page.get_by_label("Temperature").fill("0")
    page.locator("#mh-prompt").fill(QUESTION)
    page.locator("#mh-prompt").press("Enter")
    answer = page.locator("[data-role=assistant] .mh-message__text")
    expect(answer).to_have_text("The capital of France is Paris.", timeout=60_000)
    expect(page.locator("[data-chat-usage]")).to_have_text(re.compile(r"^\d+ tokens · first after"))
    assert len(lengths()) > 2, "the answer did not grow on the page"
    expect(card(page).locator("[data-fact=memory]")).to_have_text(re.compile(r"GB$"))
    expect(card(page).locator("[data-fact=in_flight]")).to_have_text("0")
    shoot(page, "ready")

    page.locator("#mh-prompt").fill("Write a very long story about a river, in many chapters.")
    page.locator("#mh-prompt").press("Enter")
    expect(answer.last).not_to_be_empty(timeout=60_000)
    button(page, "Stop").click()
    expect(page.locator("[data-chat-usage]").last).to_have_text("Stopped.")
    expect(card(page).locator("[data-fact=in_flight]")).to_have_text("0")
    expect(page.locator("#mh-prompt")).to_be_focused()

    card(page).get_by_text("Show log").click()
    expect(card(page).locator("[data-log-text]")).to_contain_text("Application startup complete")

    button(page, "Stop vLLM").click()
    expect_state(page, "Stopped", 60)
    assert site.engine_processes() == []
    expect(page.locator("#mh-prompt")).to_be_disabled()

    page.get_by_role("link", name="Operations").click()
    expect(page.get_by_text("Stop · vLLM").first).to_be_visible()
    page.get_by_role("link", name="Audit", exact=False).first.click()
    expect(page.get_by_text("operation.requested").first).to_be_visible()
    expect(page.get_by_text("backend.stopped").first).to_be_visible()
    page.screenshot(path=artifacts() / "audit-light-1280.png")
    watched.check(site.url)


def watch_growth(page: Page) -> Callable[[], list[int]]:
    """Note every length the answer has on the page; returns a function that reads them."""
    page.evaluate(
        """() => {
            window.mhLengths = new Set();
            const list = document.querySelector("[data-chat-list]");
            new MutationObserver(() => {
                const text = list.querySelector("[data-role=assistant] .mh-message__text");
                window.mhLengths.add(text ? text.textContent.length : 0);
            }).observe(list, { childList: true, subtree: true, characterData: true });
        }"""
    )
    return lambda: list(page.evaluate("[...window.mhLengths]"))


def test_the_page_says_when_it_is_stale_and_comes_back_by_itself(
    watched: Watched, site: Site
) -> None:
    page = watched.page
    sign_in(page)
    live = page.locator("#mh-header[data-live=on]")
    expect(live).to_be_visible()
    site.child("web").kill()
    stale = page.locator("[data-header-stale]")
    expect(stale).to_have_text(re.compile(r"Reconnecting… last update \d+ s ago"), timeout=10_000)
    page.screenshot(path=artifacts() / "stale-light-1280.png", full_page=True)
    expect(live).to_be_visible(timeout=90_000)
    expect(stale).to_be_hidden()
    watched.forgive("WebSocket connection")
    watched.forgive("net::ERR_")
    watched.check(site.url)


def test_without_javascript_the_buttons_are_forms_and_the_rest_is_there(
    browser: Browser, site: Site
) -> None:
    site.stopped()
    context = browser.new_context(base_url=site.url, viewport=NARROW, java_script_enabled=False)
    page = context.new_page()
    sign_in(page)
    expect(card(page).locator("[data-word]")).to_have_text("Stopped")
    expect(page.get_by_text("Chatting here needs JavaScript")).to_be_visible()
    changed = site.owner.patch(
        "/api/llm-backend/vllm/config", json={"options": {"model": "/nowhere/at/all"}}
    )
    assert changed.status_code == 200, changed.text
    try:
        button(page, "Start vLLM").click()
        expect(page.get_by_text("Start of vllm was requested.")).to_be_visible()
        failed = card(page).get_by_text("Start failed")
        for _ in range(60):
            if failed.is_visible():
                break
            page.wait_for_timeout(250)
            page.reload()
        expect(failed).to_be_visible()
        expect(card(page)).to_contain_text("/nowhere/at/all")
        page.screenshot(path=artifacts() / "failed-plain-light-390.png", full_page=True)
    finally:
        site.owner.patch(
            "/api/llm-backend/vllm/config", json={"options": {"model": "SmolLM2-135M-Instruct"}}
        )
        context.close()
