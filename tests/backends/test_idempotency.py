"""A request sent again under its ``Idempotency-Key`` gets the operation that it made, and makes no other."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client

from accounts.models import Role, User
from audit.models import Event
from backends import bus
from backends.models import IdempotencyKey, Operation, OperationState
from backends.services.repeating import KEPT
from tests.backends.conftest import FakeBackend

ROOT = "/api/llm-backend"
KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def backend(fake: Callable[..., FakeBackend]) -> FakeBackend:
    bus.worker_beat(settings.MH_NODE)
    return fake()


def send(client: Client, path: str, data: Any = None, key: str = KEY, method: str = "post") -> Any:
    ask = getattr(client, method)
    headers = {"Idempotency-Key": key}
    return ask(ROOT + path, data or {}, "application/json", headers=headers)


def end(operation_id: str, state: OperationState) -> None:
    Operation.objects.filter(pk=operation_id).update(state=state)


def test_the_same_request_gets_the_same_operation_in_its_state_of_now(
    backend: FakeBackend, as_owner: Client
) -> None:
    first = send(as_owner, "/fake/start", {"model": "fake-model"})
    assert first.status_code == 202
    end(first.json()["id"], OperationState.SUCCEEDED)
    again = send(as_owner, "/fake/start?wait=5", {"model": "fake-model"}, key=f'"{KEY}"')
    assert (again.status_code, again.json()["state"]) == (200, "succeeded")
    assert again.json()["id"] == first.json()["id"]
    assert again["Location"] == first["Location"]
    assert Operation.objects.count() == 1
    assert Event.objects.filter(event__startswith="operation.requested").count() == 1
    assert not Event.objects.filter(event="operation.joined").exists()


def test_without_a_key_a_request_that_comes_again_is_another(
    backend: FakeBackend, as_owner: Client
) -> None:
    first = as_owner.post(f"{ROOT}/fake/start", {}, "application/json").json()
    end(first["id"], OperationState.SUCCEEDED)
    again = as_owner.post(f"{ROOT}/fake/start", {}, "application/json").json()
    assert again["id"] != first["id"]
    assert not IdempotencyKey.objects.exists()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/fake/start", {"model": "other-model"}),
        ("/fake/restart", {"model": "fake-model"}),
        ("/fake/stop", {}),
    ],
)
def test_the_same_key_with_another_request_is_refused_and_names_the_operation(
    backend: FakeBackend, as_owner: Client, path: str, data: Any
) -> None:
    first = send(as_owner, "/fake/start", {"model": "fake-model"}).json()
    answer = send(as_owner, path, data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "idempotency_key_reused")
    assert first["id"] in error["message"]
    assert Operation.objects.count() == 1


def test_a_key_is_its_users_alone(backend: FakeBackend, as_owner: Client) -> None:
    other = Client()
    other.force_login(User.objects.create_user("otto", password="pw-otto-123", role=Role.OWNER))
    first = send(as_owner, "/fake/start").json()
    end(first["id"], OperationState.SUCCEEDED)
    assert send(other, "/fake/start").json()["id"] != first["id"]


def test_a_key_is_free_again_after_a_day(backend: FakeBackend, as_owner: Client) -> None:
    first = send(as_owner, "/fake/start").json()
    end(first["id"], OperationState.SUCCEEDED)
    kept = IdempotencyKey.objects.get()
    IdempotencyKey.objects.update(created_at=kept.created_at - KEPT + timedelta(minutes=1))
    assert send(as_owner, "/fake/start").json()["id"] == first["id"]
    IdempotencyKey.objects.update(created_at=kept.created_at - KEPT - timedelta(minutes=1))
    assert send(as_owner, "/fake/start").json()["id"] != first["id"]
    assert IdempotencyKey.objects.count() == 1


def test_what_was_refused_can_be_sent_again_with_its_key(
    fake: Callable[..., FakeBackend], as_owner: Client
) -> None:
    fake()
    assert send(as_owner, "/fake/start").status_code == 503
    assert not IdempotencyKey.objects.exists()
    bus.worker_beat(settings.MH_NODE)
    assert send(as_owner, "/fake/start").status_code == 202


def test_requests_that_come_at_once_get_one_operation(
    backend: FakeBackend, owner: User, as_owner: Client
) -> None:
    together, found = threading.Barrier(6), []

    def ask() -> None:
        client = Client()
        client.cookies = as_owner.cookies
        try:
            together.wait(20)
            answer = send(client, "/fake/start", {"model": "fake-model"})
            found.append((answer.status_code, answer.json()["id"]))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert Operation.objects.count() == 1
    assert IdempotencyKey.objects.count() == 1
    assert Event.objects.filter(event="operation.requested").count() == 1
    assert not Event.objects.filter(event="operation.joined").exists()


def test_joining_an_operation_keeps_the_key_for_it(backend: FakeBackend, as_owner: Client) -> None:
    first = as_owner.post(f"{ROOT}/fake/start", {}, "application/json").json()
    joined = send(as_owner, "/fake/start").json()
    assert joined["id"] == first["id"]
    end(first["id"], OperationState.FAILED)
    again = send(as_owner, "/fake/start").json()
    assert (again["id"], again["state"]) == (first["id"], "failed")


def test_a_change_of_model_for_the_next_start_is_made_once(
    backend: FakeBackend, as_owner: Client
) -> None:
    first = send(as_owner, "/fake/model", {"model": "other-model"})
    assert first.status_code == 200
    again = send(as_owner, "/fake/model", {"model": "other-model"})
    assert again.json()["id"] == first.json()["id"]
    assert Operation.objects.count() == 1


def test_applying_a_configuration_has_a_key_too(
    backend: FakeBackend, as_owner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.selectors.backend_is_running", lambda _: True)
    body = {"options": {"drainSeconds": 7}, "apply": True}
    first = send(as_owner, "/fake/config", body, method="patch").json()["operation"]
    end(first["id"], OperationState.SUCCEEDED)
    again = send(as_owner, "/fake/config", body, method="patch").json()
    assert again["operation"]["id"] == first["id"]
    assert Event.objects.filter(event="backend.configured").count() == 1


@pytest.mark.parametrize(
    "key", ["", "two words", "schlüssel".encode().decode("latin-1"), "x" * 256, '"']
)
def test_what_is_no_key_is_refused_before_anything_is_done(
    backend: FakeBackend, as_owner: Client, key: str
) -> None:
    answer = send(as_owner, "/fake/start", key=key)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "Idempotency-Key")
    assert not Operation.objects.exists()
