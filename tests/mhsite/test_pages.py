"""What holds for every settings page: its door, its header, its policy, and what its files may hold."""

import hashlib
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from accounts.models import User
from accounts.permissions import GRANTS
from audit.models import Event, Outcome
from backends import services
from mhsite.home import REPOSITORY
from mhsite.pages import pages

pytestmark = pytest.mark.django_db

VENDOR = REPOSITORY / "mhsite" / "static" / "mh" / "vendor"
SCRIPTS = [f for f in sorted(REPOSITORY.glob("*/static/**/*.js")) if VENDOR not in f.parents]
TEMPLATES = sorted(REPOSITORY.glob("*/templates/**/*.html"))


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.fixture(autouse=True)
def backends(db: None, clean_broker: object) -> None:
    services.backends_ensure()


@pytest.mark.parametrize("name", [page.name for page in pages()])
@pytest.mark.parametrize("role", ["owner", "standard", "guest"])
def test_a_page_and_its_place_in_the_sidebar_are_for_those_with_its_permission(
    client: Client, name: str, role: str, request: pytest.FixtureRequest
) -> None:
    user: User = request.getfixturevalue(role)
    page = next(p for p in pages() if p.name == name)
    may = page.permission in GRANTS[user.role]
    client.force_login(user)
    response = client.get(page.url)
    assert response.status_code == (200 if may else 403), response.content.decode()[:2000]
    html = client.get(reverse("admin:llm-backend")).content.decode()
    assert (f'href="{page.url}"' in html) == may
    refused = Event.objects.filter(outcome=Outcome.REFUSED, actor=user, target_id=name)
    assert refused.exists() == (not may)


@pytest.mark.parametrize("name", [page.name for page in pages()])
def test_a_stranger_signs_in_first_and_comes_back(client: Client, name: str) -> None:
    url = reverse(f"admin:{name}")
    response = client.get(url)
    assert response.status_code == 302
    assert response["Location"] == f"/admin/login/?next={url}"


def test_every_page_of_the_admin_says_what_runs(client: Client, owner: User) -> None:
    client.force_login(owner)
    for name in ("llm-backend", "accounts_user_changelist", "audit"):
        html = client.get(reverse(f"admin:{name}")).content.decode()
        assert 'id="mh-header" class="mh-header" href="/admin/backends/llm-backend/"' in html
        assert '<script id="mh-header-data" type="application/json">' in html


def test_the_page_to_sign_in_says_nothing_of_what_runs(client: Client) -> None:
    html = client.get(reverse("admin:login")).content.decode()
    assert 'id="mh-header"' not in html
    assert "vllm" not in html.lower()


def test_pages_carry_a_policy_that_allows_no_script_in_them(client: Client, owner: User) -> None:
    client.force_login(owner)
    policy = client.get(reverse("admin:llm-backend"))["Content-Security-Policy"]
    assert policy == settings.CONTENT_SECURITY_POLICY
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy.replace("default-src 'self'", "")
    assert "Content-Security-Policy" not in client.get("/api/llm-backend/status")


@pytest.mark.parametrize("file", SCRIPTS, ids=name_of)
def test_scripts_never_parse_text_as_html_and_know_no_other_host(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("file", TEMPLATES, ids=name_of)
def test_templates_have_no_inline_scripts_styles_or_handlers(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r"https?://", text)


def test_the_vendored_libraries_are_those_that_were_brought() -> None:
    sums = dict(
        reversed(line.split(maxsplit=1))
        for line in (VENDOR / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in VENDOR.iterdir()
        if f.name != "SHA256SUMS"
    }
    assert found == sums
