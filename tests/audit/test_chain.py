"""The record: append-only in the database itself, chained, and without secrets."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from accounts.actors import Actor
from accounts.errors import Conflict, NotAllowed, NotAuthenticated
from accounts.masking import MASK, is_secret_key, mask, mask_text
from accounts.models import User
from accounts.permissions import Permission
from audit import access, append_only, chain
from audit.models import Category, Event
from audit.selectors import chain_verify, events, events_oldest_first
from audit.services import event_record
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db
SYSTEM = Actor.system(request_id="boot-1")


def record(event: str = "system.booted", **more: Any) -> Event:
    return event_record(actor=SYSTEM, event=event, category=Category.SYSTEM, **more)


@pytest.fixture
def tampering() -> Iterator[Any]:
    """A cursor of somebody who could drop the triggers."""
    append_only.remove(connection)
    with connection.cursor() as cursor:
        yield cursor
    append_only.install(connection)


@fault(36)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET message = 'nothing happened'",
        "UPDATE audit_event SET actor_id = NULL WHERE id > 0",
        "DELETE FROM audit_event",
        "DELETE FROM audit_event WHERE id = (SELECT MAX(id) FROM audit_event)",
        "REPLACE INTO audit_event SELECT * FROM audit_event",
    ],
)
def test_the_database_refuses_to_change_or_delete_an_event(statement: str) -> None:
    event = record()
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Event.objects.get(pk=event.pk).hash == event.hash
    assert chain_verify().ok


def test_the_model_refuses_too() -> None:
    event = record()
    with pytest.raises(TypeError):
        event.save()
    with pytest.raises(TypeError):
        event.delete()
    with pytest.raises(DatabaseError), transaction.atomic():
        Event.objects.all().delete()
    with pytest.raises(DatabaseError), transaction.atomic():
        Event.objects.update(message="x")


def test_each_event_holds_the_hash_of_the_one_before() -> None:
    rows = [record(f"system.step{n}", after={"n": n, "x": 1.0, "y": 0.1}) for n in range(4)]
    assert rows[0].previous_hash == chain.GENESIS
    assert [r.previous_hash for r in rows[1:]] == [r.hash for r in rows[:-1]]
    report = chain_verify()
    assert (report.ok, report.checked, report.first_bad) == (True, 4, None)
    assert report.head == rows[-1].hash


@pytest.mark.parametrize(
    "change",
    [
        "message = 'other'",
        "actor_name = 'mallory'",
        "created_at = '2020-01-01 00:00:00'",
        "after = '{}'",
        "outcome = 'failure'",
    ],
)
def test_the_check_names_the_event_that_was_changed(tampering: Any, change: str) -> None:
    rows = [record(after={"n": n}) for n in range(5)]
    tampering.execute(f"UPDATE audit_event SET {change} WHERE id = %s", [rows[2].pk])
    report = chain_verify()
    assert not report.ok
    assert report.first_bad == rows[2].pk
    assert report.checked == 3


def test_the_check_names_the_event_after_one_that_is_missing(tampering: Any) -> None:
    rows = [record() for _ in range(5)]
    tampering.execute("DELETE FROM audit_event WHERE id = %s", [rows[1].pk])
    assert chain_verify().first_bad == rows[2].pk


def test_a_change_made_to_fit_its_own_hash_is_found_at_the_next_event(tampering: Any) -> None:
    rows = [record() for _ in range(3)]
    forged = rows[1]
    forged.message = "nothing to see"
    tampering.execute(
        "UPDATE audit_event SET message = %s, hash = %s WHERE id = %s",
        [forged.message, chain.hash_of(forged), forged.pk],
    )
    assert chain_verify().first_bad == rows[2].pk


def test_the_check_reads_more_events_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.selectors._BATCH", 3)
    for _ in range(10):
        record()
    assert chain_verify().checked == 10
    assert len(list(events_oldest_first())) == 10


def test_an_event_goes_with_the_transaction_it_describes() -> None:
    def changed_and_failed() -> None:
        record()
        raise Conflict("no")

    with pytest.raises(Conflict), transaction.atomic():
        changed_and_failed()
    assert not Event.objects.exists()
    record()
    assert chain_verify().ok


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        1e22,
        "nul\0",
        "half \ud800",
        {"deep": [{"x": (1, 2)}]},
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
)
def test_odd_values_are_stored_and_still_verify(value: Any) -> None:
    record(message="half \ud800", after={"value": value})
    assert chain_verify().ok


def test_long_names_are_cut_not_refused() -> None:
    event = record("x" * 200, target_type="y" * 200, target_id="z" * 1000)
    assert len(event.event) == 64
    assert chain_verify().ok


# Refusals


@fault(37)
def test_a_refusal_is_recorded_and_raised(standard: User) -> None:
    actor = Actor(user=standard, surface="rest", request_id="r9", source_address="192.0.2.1")
    with pytest.raises(NotAllowed):
        access.require(actor, Permission.BACKENDS_OPERATE, target_type="backend", target_id="vllm")
    event = Event.objects.get()
    assert (event.outcome, event.category, event.level) == ("refused", "permission", "warning")
    assert (event.actor_id, event.actor_name, event.request_id) == (standard.pk, "stan", "r9")
    assert (event.target_type, event.target_id) == ("backend", "vllm")
    assert event.after == {"permission": "backends:operate"}


@pytest.mark.django_db(transaction=True)
def test_a_refusal_inside_a_transaction_outlives_it(standard: User) -> None:
    actor = Actor(user=standard, surface="rest")
    with pytest.raises(NotAllowed) as caught, transaction.atomic():
        access.require(actor, Permission.BACKENDS_OPERATE)
    assert not Event.objects.exists()
    access.settle(caught.value)
    access.settle(caught.value)
    assert Event.objects.count() == 1


@pytest.mark.django_db(transaction=True)
async def test_a_refusal_in_async_code_is_recorded(standard: User) -> None:
    actor = Actor(user=standard, surface="v1", scopes=("status:read",))
    with pytest.raises(NotAllowed) as caught:
        await access.arequire(actor, Permission.CHAT)
    assert caught.value.code == "scope_missing"
    assert await Event.objects.acount() == 1


def test_strangers_cannot_fill_the_record() -> None:
    stranger = Actor(user=None, surface="rest", source_address="192.0.2.9")
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            access.require(stranger, Permission.CHAT)
    assert Event.objects.count() == 1


def test_the_site_itself_may_do_everything() -> None:
    access.require(SYSTEM, Permission.BACKENDS_OPERATE)
    assert not Event.objects.exists()


def test_the_owner_of_a_backend_may_operate_it(standard: User) -> None:
    actor = Actor(user=standard, surface="rest")
    access.require(actor, Permission.BACKENDS_OPERATE, backend_owner_id=standard.pk)
    with pytest.raises(NotAllowed):
        access.require(actor, Permission.AUDIT_READ, backend_owner_id=standard.pk)


# Secrets


@pytest.mark.parametrize(
    "key",
    [
        "apiKey",
        "api_key",
        "API_KEY",
        "token",
        "hf_token",
        "hfToken",
        "password",
        "clientSecret",
        "Authorization",
        "cookie",
        "private_key",
        "x-api-key",
        "access_token",
        "OPENAI_API_KEY",
    ],
)
def test_secret_keys_are_known(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    [
        "max_tokens",
        "maxTokens",
        "prompt_tokens",
        "token_id",
        "key",
        "keyboard",
        "model",
        "tokenizer",
        "monkey",
        "public_id",
    ],
)
def test_other_keys_are_left_alone(key: str) -> None:
    assert not is_secret_key(key)


@fault(38)
def test_secrets_are_masked_by_key_and_by_value_at_any_depth() -> None:
    secret = "hf_" + "A1b2C3d4E5" * 3
    event = record(
        "configuration.changed",
        message=f"used {secret}",
        before={"api_key": "12345", "empty_token": "", "password": None},
        after={
            "server": {"runpod": {"apiKey": 12345, "endpoints": ["https://user:pw@host/x"]}},
            "note": f"Bearer {'a' * 30}",
            "args": ["--hf-token", secret],
            "max_tokens": 100,
        },
    )
    stored = json.dumps([event.message, event.before, event.after])
    for part in (secret, "12345", "user:pw", "a" * 30):
        assert part not in stored
    assert event.before == {"api_key": MASK, "empty_token": "", "password": None}
    assert event.after is not None
    assert event.after["max_tokens"] == 100


def test_masking_leaves_the_original_alone_and_ordinary_text_as_it_is() -> None:
    original = {"token": "x", "list": [{"secret": "y"}]}
    mask(original)
    assert original == {"token": "x", "list": [{"secret": "y"}]}
    text = "Model smollm2 is ready on http://127.0.0.1:8000 after 12.5 s."
    assert mask_text(text) == text


# Reading


def test_events_are_found_by_every_filter(standard: User) -> None:
    record("operation.started", target_type="backend", target_id="vllm", message="Start asked for")
    event_record(
        actor=Actor(user=standard, surface="cli", request_id="r5"),
        event="operations.other", category="operation", outcome="failure", level="error",
    )  # fmt: skip
    now = datetime.now(UTC)
    first = {"event": "operation.started"}
    for filters, expected in (
        ({}, 2), ({"event": "operation"}, 1), (first, 1), ({"category": "operation"}, 1),
        ({"outcome": "failure"}, 1), ({"level": "error"}, 1), ({"actor": "stan"}, 1),
        ({"actor": "system"}, 1), ({"target": "vllm"}, 1), ({"target_type": "backend"}, 1),
        ({"request_id": "r5"}, 1), ({"surface": "cli"}, 1), ({"q": "ASKED"}, 1), ({"q": "stan"}, 1),
        ({"since": now - timedelta(hours=1)}, 2), ({"until": now - timedelta(hours=1)}, 0),
        ({"category": ""}, 2),
    ):  # fmt: skip
        assert events(filters).count() == expected, filters  # type: ignore[arg-type]
