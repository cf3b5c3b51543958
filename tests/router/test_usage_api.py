"""``/api/usage`` and ``/metrics``."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from router.usage import quotas
from tests.router.usage.conftest import stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clean_broker")]
QUOTA = "/api/usage/quotas/stan"


@pytest.fixture
def signed_in(client: Client, standard: User) -> Client:
    client.force_login(standard)
    return client


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def results(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"/api/usage{query}")
    assert answer.status_code == 200, answer.content
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_everybody_sees_their_own_and_an_owner_all(
    signed_in: Client, as_owner: Client, standard: User, owner: User
) -> None:
    stored(standard)
    stored(owner)
    assert [row["user"] for row in results(signed_in)] == ["stan"]
    assert results(signed_in, "?user=olga") == []
    assert [row["user"] for row in results(as_owner)] == ["olga", "stan"]
    assert [row["user"] for row in results(as_owner, "?user=stan")] == ["stan"]


def test_requests_are_chosen_by_what_they_were(as_owner: Client, standard: User) -> None:
    now = datetime.now(tz=UTC)
    stored(standard, model="a", surface="v1", at=now - timedelta(days=2))
    stored(standard, model="b", outcome="engine_stopped", role="persona")
    for query in ("?model=a", "?surface=v1", f"?to={(now - timedelta(days=1)).date()}T00:00:00Z"):
        assert [row["model"] for row in results(as_owner, query)] == ["a"], query
    for query in ("?outcome=engine_stopped", "?role=persona", f"?from={now.date()}T00:00:00Z"):
        assert [row["model"] for row in results(as_owner, query)] == ["b"], query
    for query in ("?from=yesterday", "?group_by=weather", "?limit=0"):
        answer = as_owner.get(f"/api/usage{query}")
        assert answer.status_code in {400, 422}
        assert answer.json()["error"]["param"] in query


def test_pages_follow_each_other(as_owner: Client, standard: User) -> None:
    for _ in range(3):
        stored(standard)
    first = as_owner.get("/api/usage?limit=2").json()
    second = as_owner.get(first["next"]).json()
    assert len(first["results"]) == 2
    assert len(second["results"]) == 1
    assert second["next"] is None


def test_sums_by_group_have_counts_tokens_and_times(as_owner: Client, standard: User) -> None:
    for number in range(1, 101):
        stored(standard, model="a", ttft_ms=float(number), total_ms=float(number * 10))
    stored(standard, model="b", outcome="engine_stopped", ttft_ms=None, total_tokens=None)
    stored(standard, model="b", outcome="cancelled", ttft_ms=None, total_tokens=None)
    a, b = results(as_owner, "?group_by=model")
    assert a["ttft_ms"] == {"p50": 50.0, "p95": 95.0}
    assert a["total_ms"] == {"p50": 500.0, "p95": 950.0}
    assert (a["group"], a["requests"], a["total_tokens"], a["errors"]) == ("a", 100, 1500, 0)
    assert (b["requests"], b["errors"], b["cancelled"]) == (2, 1, 1)
    assert b["ttft_ms"] == {"p50": None, "p95": None}
    assert b["total_ms"] == {"p50": 20.0, "p95": 20.0}


@pytest.mark.parametrize("group", ["day", "user", "role", "provider"])
def test_every_group_can_be_asked_for(as_owner: Client, standard: User, group: str) -> None:
    stored(standard, at=datetime(2026, 1, 2, 23, 59, tzinfo=UTC), role="persona")
    (found,) = results(as_owner, f"?group_by={group}")
    expected = {"day": "2026-01-02", "user": "stan", "role": "persona", "provider": "active"}
    assert found["group"] == expected[group]
    assert found["total_ms"]["p50"] == 20.0


def test_an_owner_sets_a_quota_and_its_user_sees_it(
    signed_in: Client, as_owner: Client, standard: User
) -> None:
    body = {"tokens_per_day": 20}
    answer = as_owner.put(QUOTA, body, content_type="application/json")
    assert answer.status_code == 200
    stored(standard)
    seen = signed_in.get(QUOTA).json()
    assert (seen["tokens_per_day"], seen["tokens_per_month"]) == (20, None)
    assert seen["used"]["tokens_this_day"] == 15
    assert [row["user"] for row in as_owner.get("/api/usage/quotas").json()["results"]] == ["stan"]
    assert as_owner.delete(QUOTA).json()["effective"]["tokens_per_day"] == 0
    assert as_owner.get("/api/usage/quotas").json()["results"] == []


@pytest.mark.parametrize("body", ['{"tokens": 1}', '{"tokens_per_day": -1}', "[]", "{"])
def test_a_quota_that_makes_no_sense_is_refused(as_owner: Client, body: str) -> None:
    answer = as_owner.put(QUOTA, body, content_type="application/json")
    assert answer.status_code in {400, 422}


def test_a_chat_above_the_quota_hears_429_and_when_to_come_back(
    signed_in: Client, as_owner: Client, standard: User
) -> None:
    as_owner.put(QUOTA, {"tokens_per_day": 10}, content_type="application/json")
    stored(standard)
    quotas.forget()
    chat = {"messages": [{"role": "user", "content": "x"}]}
    for path, body in (("/api/chat", chat), ("/v1/chat/completions", {**chat, "model": "m"})):
        answer = signed_in.post(path, body, content_type="application/json")
        assert answer.status_code == 429, answer.content
        assert answer.json()["error"]["code"] == "quota_exceeded"
        assert 0 < int(answer.headers["Retry-After"]) <= 86_400


def test_metrics_are_histograms_and_counters_in_prometheus_form(
    client: Client, standard: User
) -> None:
    stored(standard, model='odd"name\n', total_ms=20.0)
    stored(standard, model='odd"name\n', total_ms=2_000_000.0)
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.content.decode()
    labels = r'provider="active",backend="vllm",model="odd\"name\n",surface="rest",outcome="done"'
    for line in (
        f"mh_requests_total{{{labels}}} 2",
        f"mh_prompt_tokens_total{{{labels}}} 20",
        f'mh_request_seconds_bucket{{{labels},le="0.01"}} 0',
        f'mh_request_seconds_bucket{{{labels},le="0.025"}} 1',
        f'mh_request_seconds_bucket{{{labels},le="600"}} 1',
        f'mh_request_seconds_bucket{{{labels},le="+Inf"}} 2',
        f"mh_request_seconds_sum{{{labels}}} 2000.020000",
        f"mh_request_seconds_count{{{labels}}} 2",
        f"mh_time_to_first_token_seconds_count{{{labels}}} 2",
        f"mh_queued_seconds_count{{{labels}}} 2",
    ):
        assert f"{line}\n" in text
    sample = re.compile(r'[a-z_]+\{(\w+="(\\.|[^"\\])*",?)+\} [0-9.]+|# (HELP|TYPE) mh_.+')
    assert all(sample.fullmatch(line) for line in text.splitlines())


def test_metrics_from_elsewhere_need_a_token(client: Client, settings: Any) -> None:
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.1").status_code == 401
    assert client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer no"}).status_code == 401
    settings.MH_HTTPS = True
    assert client.get("/metrics", REMOTE_ADDR="127.0.0.1", secure=True).status_code == 401
