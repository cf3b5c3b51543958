"""Ollama's surface without an engine: who may, what is not there, and errors as Ollama's clients read them."""

import json
from typing import Any

import pytest
from django.test import Client, override_settings

from accounts.actors import Actor
from accounts.models import User
from accounts.services import token_create

pytestmark = pytest.mark.django_db

FRANCE = {"model": "role:persona", "messages": [{"role": "user", "content": "?"}]}


@pytest.fixture
def auth(standard: User) -> dict[str, str]:
    _, plain = token_create(actor=Actor.system(), user=standard, name="ollama")
    return {"Authorization": f"Bearer {plain}"}


def post(path: str, body: Any, auth: dict[str, str], kind: str = "application/json") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Client().post(f"/ollama/api/{path}", data=data, content_type=kind, headers=auth)


def test_it_says_that_it_is_there_to_everybody() -> None:
    for answer in (Client().get("/ollama/"), Client().head("/ollama/")):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
    assert Client().get("/ollama/").content == b"Ollama is running"


def test_head_is_answered_where_ollama_answers_it(auth: dict[str, str]) -> None:
    for path in ("version", "tags"):
        answer = Client().head(f"/ollama/api/{path}", headers=auth)
        assert (answer.status_code, answer.content) == (200, b"")


def test_an_error_is_its_message_with_our_fields_beside_it(auth: dict[str, str]) -> None:
    answer = post("chat", {**FRANCE, "model": "nobody"}, auth)
    error = answer.json()
    assert isinstance(error["error"], str)
    assert set(error) == {"error", "type", "code", "param", "request_id"}
    assert error["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "chat", 405), ("post", "tags", 405), ("get", "nosuch", 404), ("post", "pull", 400)],
)
def test_every_refusal_has_that_shape(
    auth: dict[str, str], method: str, path: str, status: int
) -> None:
    answer = getattr(Client(), method)(f"/ollama/api/{path}", headers=auth)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)
    assert ("Allow" in answer.headers) == (status == 405)


@override_settings(MH_MAX_BODY_BYTES=100)
def test_a_body_that_is_too_large_has_it_too(auth: dict[str, str]) -> None:
    answer = post("chat", b"x" * 101, auth)
    assert answer.status_code == 413
    assert "100 bytes" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{bad", b"[]", b'{"model": 1}', b"{}"])
@pytest.mark.parametrize("path", ["chat", "generate", "embed", "embeddings", "show"])
def test_bodies_that_are_none_are_400(auth: dict[str, str], path: str, body: bytes) -> None:
    answer = post(path, body, auth)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_what_curl_sends_as_a_form_is_read_as_json(auth: dict[str, str]) -> None:
    answer = post("chat", {**FRANCE, "model": "nobody"}, auth, "application/x-www-form-urlencoded")
    assert answer.status_code in {404, 503}


@pytest.mark.parametrize("what", ["pull", "push", "delete", "create", "copy", "blobs/sha256:00"])
def test_what_is_done_elsewhere_says_where(auth: dict[str, str], what: str) -> None:
    for method in ("post", "delete", "head"):
        answer = getattr(Client(), method)(f"/ollama/api/{what}", headers=auth)
        assert answer.status_code == 400
    assert post(what, {}, auth).json()["code"] == "not_done_here"


def test_a_name_that_nobody_serves_now_can_be_shown(auth: dict[str, str]) -> None:
    shown = post("show", {"model": "role:persona:latest"}, auth).json()
    assert shown["capabilities"] == ["completion"]
    assert post("show", {"name": "role:nosuch"}, auth).status_code == 404
