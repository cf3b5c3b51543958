"""The Models page in a real Chromium: both engines' inventory, downloads that move, deletions, what is served."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect

from tests.backends.faults.whole_site import PASSWORD, WholeSite
from tests.e2e.browsing import Watched, findings, person, shoot
from tests.e2e.fake_site import OLLAMA_MODEL, OTHER_OLLAMA_MODEL, VLLM_MODEL, fake_site
from tests.e2e.site import artifacts

pytestmark = [pytest.mark.browser, pytest.mark.process]

PAGE = "/admin/backends/models/"


@pytest.fixture(scope="module")
def site() -> Iterator[WholeSite]:
    with fake_site() as running:
        yield running


@pytest.fixture
def owner(browser: Browser, site: WholeSite) -> Iterator[Watched]:
    with person(browser, site.url, "owner", PASSWORD) as watched:
        watched.page.goto(PAGE)
        yield watched
        watched.check(site.url)


def row(page: Page, model: str) -> Locator:
    return page.locator(f"tr[data-model='{model}']")


def test_what_is_here_is_listed_served_and_used_by_roles(owner: Watched, site: WholeSite) -> None:
    page = owner.page
    expect(row(page, VLLM_MODEL)).to_contain_text("vLLM")
    expect(row(page, VLLM_MODEL)).to_contain_text("configured")
    expect(row(page, OLLAMA_MODEL)).to_contain_text("Ollama")
    expect(row(page, OLLAMA_MODEL).locator("[data-label=Roles]")).to_have_text("none")
    entry = {"id": "night.coder", "provider": "ollama", "model": OLLAMA_MODEL}
    site.post_created("/api/models", entry)
    site.client.put("/api/roles/coder", json={"chain": ["night.coder"]}).raise_for_status()
    page.reload()
    expect(row(page, OLLAMA_MODEL).locator("[data-label=Roles]")).to_have_text("coder")

    row(page, VLLM_MODEL).get_by_role("button", name="Start with it").click()
    expect(page.get_by_text(f"{VLLM_MODEL} was asked for.")).to_be_visible()
    expect(row(page, VLLM_MODEL)).to_contain_text("in memory", timeout=60_000)
    # What is active answers the roles that name nobody.
    expect(row(page, VLLM_MODEL).locator("[data-label=Roles]")).to_contain_text("persona")
    expect(row(page, OLLAMA_MODEL).get_by_role("button", name="Switch to it")).to_be_visible()
    expect(row(page, VLLM_MODEL).get_by_role("button")).to_have_count(0)
    page.get_by_label("Part of a name").fill("QWEN")
    page.get_by_role("button", name="Find").click()
    expect(row(page, OLLAMA_MODEL)).to_be_visible()
    expect(row(page, VLLM_MODEL)).to_have_count(0)
    page.get_by_role("link", name="All", exact=True).click()
    shoot(page, "models")
    assert findings(page) == []


def test_a_download_moves_and_is_cancelled_and_another_ends_in_the_list(
    owner: Watched, site: WholeSite
) -> None:
    page = owner.page
    page.get_by_label("For").select_option("ollama")
    page.get_by_label("Model", exact=True).fill("llama3:8b")
    page.get_by_role("button", name="Download", exact=True).click()
    download = page.locator("[data-download]").filter(has_text="llama3:8b").first
    expect(download.locator("[data-download-message]")).to_have_text(re.compile(r"MB of "))
    page.wait_for_function("() => document.querySelector('[data-download] progress')?.value > 0.05")
    page.screenshot(path=artifacts() / "models-download-light-1280.png")
    download.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-download][data-operation-state=cancelled]")).to_contain_text(
        "Download of llama3:8b", timeout=30_000
    )
    page.get_by_label("For").select_option("ollama")
    page.get_by_label("Model", exact=True).fill("llama3:8b")
    page.get_by_role("button", name="Download", exact=True).click()
    expect(row(page, "llama3:8b")).to_be_visible(timeout=60_000)


def test_a_download_that_ends_before_the_page_hears_of_anything_is_seen_to_have_ended(
    owner: Watched, site: WholeSite
) -> None:
    page = owner.page
    lines: list[WebSocketRoute] = []

    def hold(line: WebSocketRoute) -> None:
        """Keep the page from the server, as a line that answers pings and says nothing else."""
        line.on_message(lambda _: line.send('{"type": "pong"}'))
        lines.append(line)

    page.route_web_socket(re.compile("/ws/status/"), hold)
    asked = site.pull("ollama", "phi4:14b")
    page.goto(PAGE)
    download = page.locator(f"[data-download='{asked['id']}']")
    expect(download.get_by_role("button", name="Cancel")).to_be_visible()
    site.post(f"/api/llm-backend/operations/{asked['id']}/cancel")
    assert site.operation(asked["id"], wait=30)["state"] == "cancelled"
    there = lines[-1].connect_to_server()
    there.on_message(lines[-1].send)
    expect(
        page.locator(f"[data-download='{asked['id']}'][data-operation-state=cancelled]")
    ).to_be_visible()


def test_deleting_is_confirmed_and_what_is_wrong_is_a_sentence_without_javascript(
    browser: Browser, site: WholeSite
) -> None:
    with person(browser, site.url, "owner", PASSWORD, java_script_enabled=False) as watched:
        page = watched.page
        page.goto(PAGE)
        here = row(page, OTHER_OLLAMA_MODEL)
        here.locator("summary").click()
        here.get_by_role("button", name=f"Delete {OTHER_OLLAMA_MODEL}").click()
        expect(
            page.get_by_text(f"The deletion of {OTHER_OLLAMA_MODEL} was asked for.")
        ).to_be_visible()
        for _ in range(60):
            if not row(page, OTHER_OLLAMA_MODEL).count():
                break
            page.wait_for_timeout(250)
            page.reload()
        expect(row(page, OTHER_OLLAMA_MODEL)).to_have_count(0)
        page.get_by_label("For").select_option("vllm")
        page.get_by_label("Model", exact=True).fill("../../etc")
        page.get_by_role("button", name="Download", exact=True).click()
        expect(page.locator(".messagelist, [data-message], #main, body").first).to_contain_text(
            "../../etc"
        )
        watched.check(site.url)
