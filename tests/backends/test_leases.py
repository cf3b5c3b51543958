"""Leases on a real broker: counted, refused when the gate is closed, cut, and gone with their holder."""

import asyncio
import time

import pytest
import redis

from backends import leases, request_leases
from backends.errors import BackendNotRunning
from backends.request_leases import request_lease


async def test_a_request_is_counted_while_it_runs(clean_broker: "redis.Redis") -> None:
    async with request_lease("fake", "r1"):
        assert leases.in_flight("fake") == 1
    assert leases.in_flight("fake") == 0


async def test_a_closed_gate_refuses_and_says_when_to_try_again(
    clean_broker: "redis.Redis",
) -> None:
    leases.gate_close("fake")
    with pytest.raises(BackendNotRunning) as caught:
        async with request_lease("fake", "r1"):
            pass
    assert caught.value.code == "backend_draining"
    assert caught.value.retry_after
    leases.gate_open("fake")
    async with request_lease("fake", "r2"):
        assert leases.in_flight("fake") == 1


async def test_a_cut_ends_what_runs_with_an_error(clean_broker: "redis.Redis") -> None:
    began = asyncio.Event()

    async def chat() -> None:
        async with request_lease("fake", "r1"):
            began.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(chat())
    await began.wait()
    leases.cut("fake")
    with pytest.raises(BackendNotRunning) as caught:
        await asyncio.wait_for(task, 5)
    assert caught.value.code == "engine_stopped"
    assert leases.in_flight("fake") == 0


async def test_a_client_that_leaves_is_not_taken_for_a_cut(clean_broker: "redis.Redis") -> None:
    async def chat() -> None:
        async with request_lease("fake", "r1"):
            await asyncio.sleep(60)

    task = asyncio.create_task(chat())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leases.in_flight("fake") == 0


async def test_a_lease_of_a_dead_holder_expires(clean_broker: "redis.Redis") -> None:
    clean_broker.zadd("mh:leases:fake", {"dead": time.time() - 1})
    assert leases.in_flight("fake") == 0


async def test_a_long_request_keeps_its_lease(
    clean_broker: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_leases, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(request_leases, "RENEW_SECONDS", 0.1)
    async with request_lease("fake", "r1"):
        await asyncio.sleep(1)
        assert leases.in_flight("fake") == 1


async def test_without_a_broker_it_says_so(monkeypatch: pytest.MonkeyPatch, settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(BackendNotRunning) as caught:
        async with request_lease("fake", "r1"):
            pass
    assert caught.value.code == "broker_unavailable"


async def test_many_at_once_are_all_counted_and_all_returned(clean_broker: "redis.Redis") -> None:
    opened = 0
    everybody = asyncio.Event()

    async def one() -> None:
        nonlocal opened
        async with request_lease("vllm", "same-id"):
            opened += 1
            if opened == 60:
                everybody.set()
            await everybody.wait()
            assert leases.in_flight("vllm") > 0

    connected = clean_broker.info("stats")["total_connections_received"]
    await asyncio.gather(*(one() for _ in range(60)))
    assert leases.in_flight("vllm") == 0
    assert clean_broker.info("stats")["total_connections_received"] - connected <= 3


async def test_one_that_leaves_while_it_is_counted_is_not_counted(
    clean_broker: "redis.Redis",
) -> None:
    async def one() -> None:
        async with request_lease("vllm", "leaving"):
            pytest.fail("it had left")

    task = asyncio.create_task(one())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with request_lease("vllm", "another"):
        assert leases.in_flight("vllm") == 1
