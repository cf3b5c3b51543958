"""What one look at GPUs and engines says."""

from typing import Any

import pytest

from backends.sampling.looks import BackendLooks, Flow, gpus_reading

CARD = {"index": 0, "name": "Fake", "uuid": "GPU-0", "memory_used": 3, "memory_total": 8,
        "utilization": 50, "power": None, "temperature": 0}  # fmt: skip


def means(looks: BackendLooks, at: float, metrics: dict[str, Any], flow: Flow) -> dict[str, float]:
    return {name: stat.mean for name, stat in looks.measures(at, metrics, flow).items()}


def test_what_the_driver_does_not_say_of_a_gpu_is_left_out_and_zero_is_not() -> None:
    measures = gpus_reading([CARD])["gpu/GPU-0"]
    assert {name: stat.mean for name, stat in measures.items()} == {
        "memory_used": 3, "memory_total": 8, "utilization": 50, "temperature": 0,
    }  # fmt: skip


def test_a_gpu_without_a_uuid_goes_by_its_number_and_one_that_says_nothing_is_no_series() -> None:
    assert set(gpus_reading([{**CARD, "uuid": None}, {"index": 1, "uuid": None}])) == {"gpu/0"}


def test_an_engine_that_counts_is_believed() -> None:
    looks = BackendLooks()
    metrics = {"running": 2, "waiting": 1, "kv_cache_usage": 0.25, "generation_tokens_total": 100.0,
               "prompt_tokens_total": 10.0, "first_tokens_total": 4, "first_token_seconds_total": 2.0}  # fmt: skip
    means(looks, 0, metrics, Flow(tokens=5))
    metrics |= {"generation_tokens_total": 180.0, "first_tokens_total": 6, "first_token_seconds_total": 3.0}  # fmt: skip
    found = means(looks, 2, metrics, Flow(tokens=9, firsts=1, first_seconds=0.7, in_flight=7))
    assert found == {
        "requests_running": 2, "requests_waiting": 1, "kv_cache_usage": 0.25, "tokens_per_second": 40,
        "prompt_tokens_per_second": 0, "engine_ttft_seconds": 0.5, "ttft_seconds": pytest.approx(0.7),
    }  # fmt: skip


def test_of_an_engine_that_counts_nothing_the_router_knows() -> None:
    looks = BackendLooks()
    means(looks, 0, {}, Flow())
    found = means(looks, 1, {}, Flow(tokens=30, prompt_tokens=8, in_flight=3))
    assert found == {
        "requests_running": 3, "requests_waiting": 0,
        "tokens_per_second": 30, "prompt_tokens_per_second": 8,
    }  # fmt: skip


def test_when_an_engine_misses_a_look_the_routers_count_does_not_stand_in_for_its_own() -> None:
    looks = BackendLooks()
    means(looks, 0, {"generation_tokens_total": 100.0}, Flow())
    assert "tokens_per_second" not in means(looks, 1, {}, Flow(tokens=50))
    assert means(looks, 2, {"generation_tokens_total": 150.0}, Flow(tokens=50))[
        "tokens_per_second"
    ] == 25  # fmt: skip
