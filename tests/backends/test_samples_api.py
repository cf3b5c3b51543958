"""``GET /api/llm-backend/samples``."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.models import User
from backends import bus, flow, services
from backends.sampling.stats import Reading, Stat

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clean_broker")]
PATH = "/api/llm-backend/samples"
READING: Reading = {"gpu/GPU-0": {"power": Stat.of(300)}, "backend/vllm": {"tokens_per_second": Stat.rate(40, 2)}}  # fmt: skip


@pytest.fixture
def as_guest(client: Client, guest: User) -> Client:
    services.backends_ensure()
    client.force_login(guest)
    return client


def test_a_guest_sees_the_last_hour_of_everything(as_guest: Client) -> None:
    at = int(time.time()) // 5 * 5 - 10
    flow.samples_push(settings.MH_NODE, at, READING)
    answer = as_guest.get(PATH).json()
    assert (answer["step"], answer["resolution"], answer["statistic"]) == (10, 5, "mean")
    found = {(one["kind"], one["id"]): one for one in answer["series"]}
    index = answer["times"].index(at // 10 * 10)
    assert found["gpu", "GPU-0"]["measures"]["power"][index] == 300
    assert found["backend", "vllm"]["measures"]["tokens_per_second"][index] == 20
    assert found["backend", "vllm"]["title"] == "vLLM"
    assert answer["times"][0] <= time.time() - 3600
    assert answer["until"] == answer["times"][-1] + 10


def test_a_month_is_answered_with_few_points(as_guest: Client) -> None:
    services.samples_record(
        node=settings.MH_NODE, minutes=[(int(time.time()) // 60 * 60 - 7200, READING)], now=time.time()
    )  # fmt: skip
    since = datetime.now(tz=UTC) - timedelta(days=30)
    answer = as_guest.get(PATH, {"since": since.isoformat(), "statistic": "max"}).json()
    assert answer["step"] == 7200
    assert len(answer["times"]) <= 500
    powers = next(one for one in answer["series"] if one["kind"] == "gpu")["measures"]["power"]
    assert [value for value in powers if value is not None] == [300]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"since": "yesterday"}, "since"),
        ({"since": "2100-01-01T00:00:00Z"}, "since"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "since"),
        ({"since": "2001-01-01T00:00:00Z"}, "since"),
        ({"step": "0"}, "step"),
        ({"statistic": "median"}, "statistic"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(
    as_guest: Client, query: dict[str, Any], param: str
) -> None:
    answer = as_guest.get(PATH, query)
    assert answer.status_code in {400, 422}
    assert answer.json()["error"]["param"] == param


def test_the_status_says_how_busy_each_backend_is(as_guest: Client) -> None:
    seen = {"metrics": {"running": 3, "waiting": 2}, "tokens_per_second": 41.5}
    bus.snapshot_write(settings.MH_NODE, {"backends": {"vllm": seen}})
    available = as_guest.get("/api/llm-backend/status").json()["available"]
    names = ("tokens_per_second", "requests_running", "requests_waiting")
    assert [available["vllm"][name] for name in names] == [41.5, 3, 2]
    assert [available["ollama"][name] for name in names] == [None, 0, 0]


def test_a_stranger_sees_nothing(client: Client) -> None:
    assert client.get(PATH).status_code == 401
