"""``/api/docs`` in a real Chromium, under a strict policy: nothing inline runs, nothing comes from elsewhere."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.test import Client
from playwright.sync_api import expect, sync_playwright

from accounts.models import User
from mhsite.system_views import DOCS_POLICY
from tests.router.live import Site, live_site

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SECONDS = 60_000


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with live_site() as running:
        yield running


@pytest.mark.django_db
def test_the_page_has_nothing_inline_and_its_script_is_a_request_of_its_own(
    client: Client, guest: User
) -> None:
    client.force_login(guest)
    answer = client.get("/api/docs")
    page = answer.content.decode()
    assert answer.headers["Content-Security-Policy"] == DOCS_POLICY
    assert "unsafe" not in DOCS_POLICY
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|style=", page) == []
    sources = re.findall(r'<(?:script src|link rel="\w+" href)="([^"]+)"', page)
    assert len(sources) == 6
    assert all(source.startswith(("/static/", "/api/docs?script")) for source in sources)
    script = client.get("/api/docs?script=")
    assert script.headers["Content-Type"].startswith("application/javascript")
    assert "SwaggerUIBundle" in script.content.decode()


def test_it_shows_every_tag_and_sends_a_request(site: Site) -> None:
    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(extra_http_headers=site.auth_of("owner"))
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{site.url}/api/docs")
        expect(page.locator("h3.opblock-tag")).to_have_count(13, timeout=SECONDS)
        block = page.locator("#operations-operations-operations")
        block.scroll_into_view_if_needed()
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        block.get_by_role("button", name="Execute").click()
        expect(block.locator(".live-responses-table .response-col_status").nth(1)).to_contain_text(
            "200", timeout=SECONDS
        )
        browser.close()
    assert [line for line in said if line.startswith(("error", "uncaught"))] == []
    here = urlsplit(site.url).netloc
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {here}
