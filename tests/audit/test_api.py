"""The record over REST: owners read, nobody writes."""

import json

import pytest
from django.db import connection
from django.test import Client

from accounts.actors import Actor
from accounts.models import User
from audit import append_only
from audit.models import Event
from audit.services import event_record

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


def fill(number: int) -> None:
    for n in range(number):
        event_record(actor=Actor.system(), event="system.test", category="system", message=f"n {n}")


def test_events_come_newest_first_a_page_at_a_time(reader: Client) -> None:
    fill(7)
    seen = []
    url = "/api/audit/events?limit=3&event=system"
    while url:
        page = reader.get(url).json()
        assert len(page["results"]) <= 3
        seen += [event["message"] for event in page["results"]]
        url = page["next"]
    assert seen == [f"n {n}" for n in reversed(range(7))]


@pytest.mark.parametrize("query", ["category=nonsense", "limit=0", "limit=x", "since=yesterday"])
def test_a_bad_filter_is_an_error_that_names_it(reader: Client, query: str) -> None:
    answer = reader.get(f"/api/audit/events?{query}")
    assert answer.status_code in {404, 422}
    assert answer.json()["error"]["message"]


def test_the_chain_is_checked_over_rest(reader: Client) -> None:
    fill(3)
    assert reader.get("/api/audit/verify").json()["ok"] is True
    append_only.remove(connection)
    bad = Event.objects.filter(event="system.test").order_by("id")[1]
    Event.objects.filter(pk=bad.pk).update(message="changed")
    append_only.install(connection)
    report = reader.get("/api/audit/verify").json()
    assert (report["ok"], report["first_bad"]) == (False, bad.pk)


def test_the_export_is_one_object_per_line_oldest_first(reader: Client) -> None:
    fill(3)
    answer = reader.get("/api/audit/export?category=system")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    lines = b"".join(answer).decode().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["n 0", "n 1", "n 2"]
    assert reader.get("/api/audit/export?level=loud").status_code == 422
    assert reader.post("/api/audit/export").status_code == 405


def test_there_is_no_way_to_write(reader: Client) -> None:
    fill(1)
    for method in ("post", "put", "patch", "delete"):
        answer = getattr(reader, method)("/api/audit/events", "{}", content_type="application/json")
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
        assert "GET" in answer.headers["Allow"]
