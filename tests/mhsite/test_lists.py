"""Lists over REST: the same pages, bounds and refusals on every path."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts.actors import Actor
from accounts.models import User
from accounts.services import token_create
from audit.services import event_record
from backends.models import Backend, Operation, OperationKind, OperationState
from router.usage_models import UsageRecord

pytestmark = pytest.mark.django_db

#: Path, and whether its pages are also had by cursor.
LISTS = {
    "/api/llm-backend/operations": False,
    "/api/llm-backend/vllm/models": False,
    "/api/models": False,
    "/api/roles": False,
    "/api/providers": False,
    "/api/tokens": False,
    "/api/users": False,
    "/api/audit/events": True,
    "/api/usage": True,
    "/api/usage/quotas": False,
}
KEYS = {"results", "count", "next", "previous", "limit", "offset"}
DAY = datetime(2026, 3, 14, 9, tzinfo=UTC)


@pytest.fixture
def backend(db: None) -> Backend:
    return Backend.objects.create(
        name="vllm", engine="vllm", node="testnode", state_since=timezone.now()
    )


@pytest.fixture
def reader(client: Client, owner: User, backend: Backend) -> Client:
    client.force_login(owner)
    return client


def asked(reader: Client, path: str, **query: Any) -> Any:
    answer = reader.get(path, query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def walked(reader: Client, url: str | None) -> list[Any]:
    """Every row, a page at a time, going where ``next`` says."""
    rows = []
    while url:
        page = reader.get(url).json()
        rows += page["results"]
        url = page["next"]
    return rows


@pytest.mark.parametrize("path", LISTS)
def test_every_list_has_the_same_keys_and_says_how_many_there_are(
    reader: Client, path: str
) -> None:
    page = asked(reader, path)
    assert set(page) >= KEYS
    assert page["count"] == len(page["results"]) <= page["limit"]
    assert page["next"] is page["previous"] is None
    assert page["offset"] == (None if LISTS[path] else 0)
    assert asked(reader, path, limit=1, offset=0)["limit"] == 1


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=100000", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=²", "limit"),
        ("offset=-1", "offset"),
        ("offset=1000000000000000000000", "offset"),
        ("colour=red", "colour"),
    ],
)
def test_what_is_no_page_and_no_filter_is_refused_by_name(
    reader: Client, path: str, query: str, param: str
) -> None:
    answer = reader.get(f"{path}?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param)
    assert error["message"]


@pytest.mark.parametrize("cursor", ["nonsense", "cD1hYmM%3D", "cD0xZTk5", "%00", "x" * 3000])
@pytest.mark.parametrize("path", [path for path, by_cursor in LISTS.items() if by_cursor])
def test_what_is_no_cursor_is_refused(reader: Client, path: str, cursor: str) -> None:
    answer = reader.get(f"{path}?cursor={cursor}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "cursor")


def operation(backend: Backend, number: int, **fields: Any) -> Operation:
    return Operation.objects.create(
        **{
            "kind": OperationKind.START,
            "backend": backend,
            "node": "testnode",
            "requested_by_name": "olga",
            "created_at": DAY + timedelta(hours=number),
            "state": OperationState.SUCCEEDED,
            **fields,
        }
    )


def test_pages_follow_each_other_to_the_end(reader: Client, backend: Backend) -> None:
    made = [str(operation(backend, number).pk) for number in range(7)]
    rows = walked(reader, "/api/llm-backend/operations?limit=3")
    assert [row["id"] for row in rows] == made[::-1]
    last = asked(reader, "/api/llm-backend/operations", limit=3, offset=6)
    assert (last["count"], len(last["results"]), last["next"]) == (7, 1, None)
    before = reader.get(last["previous"]).json()
    assert [row["id"] for row in before["results"]] == made[3:0:-1]


def test_operations_are_chosen_by_state_kind_backend_asker_and_time(
    reader: Client, backend: Backend
) -> None:
    other = Backend.objects.create(
        name="ollama", engine="ollama", node="testnode", state_since=timezone.now()
    )
    rows = {
        "failed": operation(backend, 0, state=OperationState.FAILED),
        "stop": operation(backend, 1, kind=OperationKind.STOP),
        "other": operation(other, 2),
        "stan": operation(backend, 3, requested_by_name="stan", request_id="r-1"),
        "queued": operation(backend, 4, state=OperationState.QUEUED),
    }

    def chosen(query: str) -> set[str]:
        found = reader.get(f"/api/llm-backend/operations?{query}").json()["results"]
        ids = {row["id"] for row in found}
        return {name for name, row in rows.items() if str(row.pk) in ids}

    assert chosen("state=failed") == {"failed"}
    assert chosen("state=failed&state=queued") == {"failed", "queued"}
    assert chosen("kind=stop") == {"stop"}
    assert chosen("backend=ollama") == {"other"}
    assert chosen("requested_by=stan") == {"stan"}
    assert chosen("request_id=r-1") == {"stan"}
    assert chosen("since=2026-03-14T11:00:00Z") == {"other", "stan", "queued"}
    assert chosen("until=2026-03-14T11:00:00Z") == {"failed", "stop"}
    assert chosen("state=succeeded&backend=vllm&since=2026-03-14T11:00:00Z") == {"stan"}


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/api/llm-backend/operations", "state=late", "state"),
        ("/api/llm-backend/operations", "kind=", "kind"),
        ("/api/llm-backend/operations", "since=yesterday", "since"),
        ("/api/llm-backend/operations", "until=", "until"),
        ("/api/llm-backend/operations", "backend=%00", "backend"),
        ("/api/tokens", "expired=perhaps", "expired"),
        ("/api/users", "active=null", "active"),
        ("/api/users", "role=king", "role"),
        ("/api/models", "state=there", "state"),
        ("/api/models", "scope=ours", "scope"),
        ("/api/roles", "available=perhaps", "available"),
        ("/api/llm-backend/vllm/models", "loaded=perhaps", "loaded"),
        ("/api/audit/events", "since=", "since"),
        ("/api/audit/export", "limit=5", "limit"),
        ("/api/usage", "since=yesterday", "since"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_name(
    reader: Client, path: str, query: str, param: str
) -> None:
    answer = reader.get(f"{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_users_are_listed_for_owners_by_name_role_and_whether_they_may_sign_in(
    reader: Client, standard: User, guest: User
) -> None:
    User.objects.filter(pk=guest.pk).update(is_active=False)

    def names(**query: Any) -> list[str]:
        return [row["username"] for row in asked(reader, "/api/users", **query)["results"]]

    assert names() == ["gus", "olga", "stan"]
    assert names(role=["guest", "standard"]) == ["gus", "stan"]
    assert names(active="false") == ["gus"]
    assert names(search="TA") == ["stan"]
    row = asked(reader, "/api/users", search="olga")["results"][0]
    assert set(row) == {"username", "role", "active", "created_at", "last_login_at"}
    client = Client()
    client.force_login(standard)
    assert client.get("/api/users").status_code == 403


def test_tokens_are_chosen_by_user_name_and_whether_they_work(
    reader: Client, owner: User, standard: User
) -> None:
    mine, _ = token_create(actor=Actor.system(), user=owner, name="notebook")
    theirs, _ = token_create(actor=Actor.system(), user=standard, name="phone")
    type(theirs).objects.filter(pk=theirs.pk).update(expiry=DAY)

    def ids(**query: Any) -> list[str]:
        return [row["id"] for row in asked(reader, "/api/tokens", **query)["results"]]

    assert ids(user="stan") == [theirs.public_id]
    assert ids(search="note") == [mine.public_id]
    assert ids(expired="true") == [theirs.public_id]
    assert ids(expired="false") == [mine.public_id]


def test_the_audit_and_usage_can_be_had_by_offset_too(reader: Client, owner: User) -> None:
    for number in range(5):
        event_record(
            actor=Actor.system(), event="system.test", category="system", message=f"n {number}"
        )
        UsageRecord.objects.create(
            user=owner, user_name="olga", surface="rest", outcome="done", total_ms=1.0,
            model=f"m{number}", at=DAY + timedelta(hours=number),
        )  # fmt: skip
    events = walked(reader, "/api/audit/events?event=system.test&limit=2&offset=0")
    assert [row["message"] for row in events] == [f"n {number}" for number in reversed(range(5))]
    assert len(walked(reader, "/api/usage?limit=2&offset=1")) == 4
    page = asked(reader, "/api/usage", limit=2)
    assert (page["count"], page["offset"], len(page["results"])) == (5, None, 2)
    for since, until in (("since", "until"), ("from", "to")):
        chosen = {since: "2026-03-14T10:00:00Z", until: "2026-03-14T12:00:00Z"}
        assert asked(reader, "/api/usage", **chosen)["count"] == 2


def test_a_count_ends_where_nobody_turns_pages_any_more(
    reader: Client, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.lists.COUNT_MAX", 3)
    for number in range(5):
        operation(backend, number)
    page = asked(reader, "/api/llm-backend/operations", limit=2)
    assert page["count"] == 3


def test_options_names_the_methods_of_every_list(reader: Client) -> None:
    for path in LISTS:
        answer = reader.options(path)
        assert answer.status_code == 200, path
        assert "GET" in answer.json()["methods"]
        assert "GET" in answer.headers["Allow"]
