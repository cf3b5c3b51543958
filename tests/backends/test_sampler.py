"""What the observer sees is kept: every 5 s in the broker, every minute in the database, and bounded."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import DatabaseError
from pytest_django import DjangoAssertNumQueries

from backends import bus, flow, services
from backends.lifecycle import State
from backends.models import Backend, SampleBucket
from backends.sampler import Sampler
from backends.sampling.resolution import MINUTES, QUARTERS
from backends.sampling.stats import from_json
from backends.selectors import samples_between

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clean_broker")]

#: A quarter of an hour's begin.
BEGIN = 1_700_000_100 // 900 * 900
CARD = {"index": 0, "name": "Fake", "uuid": "GPU-0", "memory_used": 100, "memory_total": 400,
        "utilization": 50, "power": 300.0, "power_limit": 700.0, "temperature": 60}  # fmt: skip


class Clocks:
    """A wall clock and one that is never set, which a test moves."""

    def __init__(self) -> None:
        self.wall = float(BEGIN)
        self.clock = 5.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.clock += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def sampler(clocks: Clocks) -> Sampler:
    return Sampler(settings.MH_NODE, wall=lambda: clocks.wall, clock=lambda: clocks.clock)


def look(sampler: Sampler, clocks: Clocks, seconds: int, power: float = 300.0) -> None:
    for _ in range(seconds):
        sampler.see([], {}, [{**CARD, "power": power}])
        clocks.go(1)


def looks_at(step: int) -> dict[int, float]:
    rows = SampleBucket.objects.filter(step=step)
    return {row.at: from_json(row.series)["gpu/GPU-0"]["power"].weight for row in rows}


def test_a_minute_is_one_transaction_and_its_quarter_grows_with_it(
    sampler: Sampler, clocks: Clocks, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(0):
        look(sampler, clocks, 60)
    with django_assert_num_queries(8):  # savepoint included
        look(sampler, clocks, 1)
    look(sampler, clocks, 59)
    assert looks_at(60) == {BEGIN: 60}
    look(sampler, clocks, 1)
    assert looks_at(60) == {BEGIN: 60, BEGIN + 60: 60}
    assert looks_at(900) == {BEGIN: 120}


def test_a_restart_keeps_the_minute_it_was_in(sampler: Sampler, clocks: Clocks) -> None:
    look(sampler, clocks, 20)
    sampler.close()
    assert looks_at(60) == {BEGIN: 20}
    again = Sampler(settings.MH_NODE, wall=lambda: clocks.wall, clock=lambda: clocks.clock)
    look(again, clocks, 41)
    assert looks_at(60) == {BEGIN: 60}
    assert looks_at(900) == {BEGIN: 60}


def test_a_clock_that_is_set_back_loses_nothing(sampler: Sampler, clocks: Clocks) -> None:
    look(sampler, clocks, 130)
    clocks.wall -= 120
    look(sampler, clocks, 50)
    sampler.close()
    assert looks_at(900) == {BEGIN: 180}
    assert looks_at(60) == {BEGIN: 110, BEGIN + 60: 60, BEGIN + 120: 10}


def test_what_the_database_does_not_take_now_is_written_with_the_next_minute(
    sampler: Sampler, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = services.samples_record
    away: Callable[..., None] = lambda **_: (_ for _ in ()).throw(DatabaseError("away"))  # noqa: E731
    monkeypatch.setattr(services, "samples_record", away)
    look(sampler, clocks, 65)
    assert looks_at(60) == {}
    monkeypatch.setattr(services, "samples_record", write)
    look(sampler, clocks, 60)
    assert looks_at(60) == {BEGIN: 60, BEGIN + 60: 60}


def test_old_buckets_are_deleted(sampler: Sampler, clocks: Clocks) -> None:
    for resolution in (MINUTES, QUARTERS):
        for ago in (resolution.reaches + resolution.step, resolution.kept):
            SampleBucket.objects.create(
                node="gone", step=resolution.step, at=BEGIN - ago, series={}
            )
    look(sampler, clocks, 61)
    left = SampleBucket.objects.filter(node="gone").values_list("step", flat=True)
    assert sorted(left) == [60, 900]


def ask(clocks: Clocks, seconds: float, **more: Any) -> dict[str, Any]:
    return dict(
        samples_between(now=clocks.wall, since=clocks.wall - seconds, until=clocks.wall, **more)
    )


def power(answer: dict[str, Any]) -> dict[int, float | None]:
    (gpu,) = [one for one in answer["series"] if one["kind"] == "gpu"]
    values = dict(zip(answer["times"], gpu["measures"]["power"], strict=True))
    return {at: value for at, value in values.items() if value is not None}


def test_the_last_minutes_are_answered_at_5_seconds_with_gaps_as_null(
    sampler: Sampler, clocks: Clocks
) -> None:
    look(sampler, clocks, 10, 100.0)
    clocks.go(10)
    look(sampler, clocks, 6, 200.0)
    answer = ask(clocks, 900)
    assert (answer["step"], answer["resolution"]) == (5, 5)
    assert power(answer) == {BEGIN: 100, BEGIN + 5: 100, BEGIN + 20: 200}
    gpu = answer["series"][0]
    assert (gpu["kind"], gpu["id"], gpu["title"]) == ("gpu", "GPU-0", "GPU-0")
    assert len(gpu["measures"]["power"]) == len(answer["times"])


def test_coarse_answers_end_with_what_is_not_written_yet(sampler: Sampler, clocks: Clocks) -> None:
    look(sampler, clocks, 60, 100.0)
    look(sampler, clocks, 31, 400.0)
    day = ask(clocks, 86_400)
    assert (day["resolution"], day["step"]) == (60, 180)
    assert power(day) == {BEGIN // 180 * 180: 200}
    assert power(ask(clocks, 86_400, statistic="max")) == {BEGIN // 180 * 180: 400}
    month = ask(clocks, 30 * 86_400)
    assert (month["resolution"], month["step"]) == (900, 7200)
    assert power(month) == {BEGIN // 7200 * 7200: 200}


def test_when_the_broker_has_forgotten_the_last_hour_is_told_by_minutes(
    sampler: Sampler, clocks: Clocks
) -> None:
    look(sampler, clocks, 61, 100.0)
    bus.redis_client().flushall()
    look(sampler, clocks, 11, 400.0)
    found = power(ask(clocks, 900))
    assert found == {
        **{BEGIN + 5 * n: 100 for n in range(12)}, BEGIN + 60: 340, BEGIN + 65: 400,
    }  # fmt: skip


def test_a_backend_that_serves_is_sampled_and_its_speed_is_known_at_once(
    sampler: Sampler, clocks: Clocks
) -> None:
    row = Backend(name="ollama", engine="ollama", node=settings.MH_NODE, state=State.READY)
    for second in range(12):
        flow.flow_add({"ollama": {"tokens": 30}})
        sampler.see([row], {"ollama": {"metrics": {}}}, [])
        clocks.go(1)
        assert (sampler.tokens_per_second("ollama") is None) == (second < 5)
    assert sampler.tokens_per_second("ollama") == 30
    row.state = State.STOPPED
    for _ in range(9):
        sampler.see([row], {"ollama": {}}, [])
        clocks.go(1)
    assert sampler.tokens_per_second("ollama") is None


def test_each_bucket_is_sent_to_those_who_watch(
    sampler: Sampler, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[Any] = []
    monkeypatch.setattr(bus, "publish", frames.append)
    look(sampler, clocks, 6)
    (frame,) = frames
    gpu, site = frame["series"]
    assert (frame["type"], frame["at"], frame["step"]) == ("sample", BEGIN, 5)
    assert gpu == {
        "kind": "gpu",
        "id": "GPU-0",
        "values": {
            key: value for key, value in CARD.items() if key not in {"index", "name", "uuid"}
        },
    }
    assert site == {"kind": "site", "id": "held", "values": {"requests_held": 0}}
