"""Counts and samples in the broker."""

import pytest
import redis
from django.conf import settings

from backends import bus, flow
from backends.sampling.looks import Flow
from backends.sampling.stats import Reading, Stat, from_json


def reading(value: float) -> Reading:
    return {"gpu/GPU-0": {"power": Stat.of(value)}}


def test_counts_of_all_web_processes_are_added_up(clean_broker: "redis.Redis") -> None:
    flow.flow_add({"vllm": {"tokens": 3, "first_seconds": 0.5}, "ollama": {"tokens": 1}})
    flow.flow_add({"vllm": {"tokens": 4, "firsts": 1}})
    assert flow.flow_read("vllm") == Flow(tokens=7, firsts=1, first_seconds=0.5)
    assert flow.flow_read("nobody") == Flow()


def test_little_more_than_an_hour_is_kept(clean_broker: "redis.Redis") -> None:
    for at in range(0, 5 * 790, 5):
        flow.samples_push("n", at, reading(at))
    kept = flow.samples_read("n", 1e6)
    assert len(kept) == 780
    at, last = kept[-1]
    assert (at, from_json(last)) == (5 * 789, reading(5 * 789))
    assert [at for at, _ in flow.samples_read("n", 20)] == [5 * 784 + 5 * n for n in range(6)]
    assert 0 < clean_broker.ttl("mh:samples:n") <= 3900


def test_without_a_broker_nothing_is_known_and_nothing_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = redis.Redis.from_url("unix:///nowhere/broker.sock")
    monkeypatch.setattr(bus, "redis_client", lambda: away)
    flow.flow_add({"vllm": {"tokens": 3}})
    flow.samples_push(settings.MH_NODE, 0, reading(1))
    assert flow.samples_read(settings.MH_NODE, 60) == []
    assert flow.flow_read("vllm") == Flow()
