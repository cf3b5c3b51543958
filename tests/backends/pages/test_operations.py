"""The operations page: who sees which, what can be chosen, and where time went."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from backends import selectors, services
from backends.models import Backend, Operation, OperationStep

pytestmark = pytest.mark.django_db
URL = "/admin/backends/operations/"


@pytest.fixture(autouse=True)
def backends(db: None, clean_broker: object) -> None:
    services.backends_ensure()


def operation(seconds: float = 4.0, **given: Any) -> Operation:
    created = selectors.now() - timedelta(minutes=5)
    values = {
        "kind": "start",
        "backend": Backend.objects.get(name="vllm"),
        "node": "here",
        "requested_by_name": "olga",
        "created_at": created,
        "started_at": created,
        "finished_at": created + timedelta(seconds=seconds),
        "state": "succeeded",
        "request_id": "req-1",
        **given,
    }
    row = Operation.objects.create(**values)
    OperationStep.objects.create(
        operation=row,
        name="start",
        state="done",
        message="loading <weights>",
        started_at=created + timedelta(seconds=1),
        finished_at=created + timedelta(seconds=3),
    )
    return row


def html_of(client: Client, user: User, query: str = "") -> str:
    client.force_login(user)
    response = client.get(f"{URL}{query}")
    assert response.status_code == 200
    return response.content.decode()


def test_an_operation_shows_its_steps_as_parts_of_its_time(client: Client, owner: User) -> None:
    operation()
    html = html_of(client, owner)
    assert 'x="25.0%" width="50.0%"' in html
    assert "loading &lt;weights&gt;" in html
    assert f"{reverse('admin:audit')}?request_id=req-1" in html


def test_a_failed_one_shows_its_reason_and_the_engines_line(client: Client, owner: User) -> None:
    operation(state="failed", error={"message": "No such model.", "detail": "OSError", "code": "x"})
    html = html_of(client, owner)
    assert "No such model." in html
    assert "OSError" in html


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?kind=switch", 1),
        ("?kind=stop", 0),
        ("?state=succeeded", 2),
        ("?backend=ollama", 1),
        ("?by=olg", 2),
        ("?by=nobody", 0),
        ("?kind=nonsense", 2),
        ("?page=99", 2),
        ("?page=x", 2),
    ],
)
def test_operations_can_be_chosen(client: Client, owner: User, query: str, found: int) -> None:
    operation()
    ollama = Backend.objects.get(name="ollama")
    operation(kind="switch", backend=ollama, from_backend="vllm")
    html = html_of(client, owner, query)
    assert html.count('id="operation-') == found
    if "switch" in query:
        assert "Switch vLLM → Ollama" in html


def test_the_times_of_the_last_month_are_counted_by_what_they_were(
    client: Client, owner: User
) -> None:
    for seconds in (2.0, 4.0, 9.0):
        operation(seconds)
    operation(1.0, state="failed")
    operation(1.0, kind="stop")
    operation(1.0, finished_at=datetime(2020, 1, 1, tzinfo=UTC))
    client.force_login(owner)
    response = client.get(URL)
    assert response.context["summaries"] == [
        {"what": "Start · vLLM", "count": 4, "failed": 1, "median": "4 s", "longest": "9 s"}
    ]
    assert len(response.context["config"]["took"]) == 4


def test_the_owner_of_one_backend_sees_its_operations_only(client: Client, standard: User) -> None:
    client.force_login(standard)
    assert client.get(URL).status_code == 403
    Backend.objects.filter(name="vllm").update(owner=standard)
    mine = operation()
    theirs = operation(backend=Backend.objects.get(name="ollama"))
    html = html_of(client, standard)
    assert str(mine.pk) in html
    assert str(theirs.pk) not in html


def test_the_page_changes_nothing(client: Client, owner: User) -> None:
    client.force_login(owner)
    assert client.post(URL).status_code == 405
