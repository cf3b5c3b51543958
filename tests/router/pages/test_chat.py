"""The Chat page as the server writes it, and its form where no JavaScript runs."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.actors import Actor
from accounts.models import User
from accounts.requests import current_request_id
from backends import services as backends
from router import services
from router.errors import EngineStopped
from router.events import ChatResult, Timings, Usage
from router.pages import chat
from router.schemas import ChatRequest

pytestmark = pytest.mark.django_db

Answering = Callable[[ChatRequest], ChatResult]


@pytest.fixture(autouse=True)
def installed(db: None, clean_broker: object) -> None:
    backends.backends_ensure()


@pytest.fixture
def browser(client: Client, standard: User) -> Client:
    client.force_login(standard)
    return client


def answered(content: str) -> ChatResult:
    return ChatResult(
        content=content,
        reasoning="Hm.",
        tool_calls=[],
        model="demo",
        provider="vllm",
        backend="vllm",
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5),
        timings=Timings(queued_ms=1, ttft_ms=2, total_ms=3),
        request_id=current_request_id(),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ChatRequest]:
    """What the page asks; the answer is hostile."""
    found: list[ChatRequest] = []

    async def chat_complete(*, actor: Actor, request: ChatRequest) -> ChatResult:
        assert actor.user is not None
        found.append(request)
        return answered("<script>alert(1)</script>")

    monkeypatch.setattr(services, "chat_complete", chat_complete)
    return found


def ask(browser: Client, **data: str) -> Any:
    return browser.post(reverse("admin:chat-ask"), data)


def test_the_page_brings_who_can_be_asked_and_whose_conversations_these_are(
    browser: Client, standard: User
) -> None:
    html = browser.get(reverse("admin:chat")).content.decode()
    _, _, rest = html.partition('<script id="mh-config" type="application/json">')
    config = json.loads(rest.partition("</script>")[0])
    assert config["user"] == standard.pk
    assert {"persona", "coder"} <= {role["name"] for role in config["roles"]}
    assert config["mayOperate"] is False
    assert '<option value="persona">persona (cannot answer now)</option>' in html


def test_a_prompt_without_javascript_is_answered_as_text(
    browser: Client, asked: list[ChatRequest]
) -> None:
    response = ask(browser, role="persona", prompt="  Who are <you>?  ")
    assert response.status_code == 200
    html = response.content.decode()
    assert asked[0].role == "persona"
    assert asked[0].messages[0].content == "Who are <you>?"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Who are &lt;you&gt;?" in html
    assert "demo on vllm" in html
    assert "2 tokens · prompt of 3 tokens" in html


def test_without_a_role_whatever_is_active_is_asked(
    browser: Client, asked: list[ChatRequest]
) -> None:
    ask(browser, role="", prompt="Hello")
    assert (asked[0].role, asked[0].model) == (None, None)


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        ({}, 422, "Write a prompt of 1 to 100000 characters."),
        ({"prompt": "   "}, 422, "Write a prompt of 1 to 100000 characters."),
        ({"prompt": "x" * 100_001}, 422, "Write a prompt of 1 to 100000 characters."),
        ({"prompt": "Hello", "role": "x" * 600}, 422, "role: String should have at most 512"),
        ({"prompt": "Hello", "role": "nosuch"}, 404, "nosuch"),
        ({"prompt": "Hello"}, 503, "is not installed"),
    ],
)
def test_what_cannot_be_asked_or_answered_is_a_sentence_and_the_prompt_stays(
    browser: Client, data: dict[str, str], status: int, sentence: str
) -> None:
    response = ask(browser, **data)
    assert response.status_code == status
    html = response.content.decode()
    assert "mh-notice--error" in html
    assert sentence in html
    if data.get("prompt") == "Hello":
        assert "required>Hello</textarea>" in html


def test_an_answer_that_takes_too_long_is_stopped_and_said(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []

    async def chat_complete(**_: Any) -> ChatResult:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)
        raise AssertionError

    monkeypatch.setattr(services, "chat_complete", chat_complete)
    monkeypatch.setattr(chat, "FORM_SECONDS", 0.05)
    assert "There was no whole answer within 0 s" in ask(browser, prompt="Hello").content.decode()
    assert stopped == [True]


def test_an_engine_that_stops_is_said(browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def chat_complete(**_: Any) -> ChatResult:
        raise EngineStopped("The engine stopped before the answer was complete.")

    monkeypatch.setattr(services, "chat_complete", chat_complete)
    assert "The engine stopped before" in ask(browser, prompt="Hello").content.decode()


def test_a_guest_may_not_ask(client: Client, guest: User, asked: list[ChatRequest]) -> None:
    client.force_login(guest)
    assert ask(client, prompt="Hello").status_code == 403
    assert asked == []


def test_the_form_is_only_posted_to(browser: Client) -> None:
    assert browser.get(reverse("admin:chat-ask")).status_code == 405
