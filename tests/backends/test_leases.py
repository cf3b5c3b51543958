"""Leases on a real broker: counted, refused when the gate is closed, cut, kept for the next, and gone with their holder."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import redis
from django.conf import settings

from backends import lease_holder, leases
from backends.errors import BackendHeld, BackendMoved, BackendNotRunning
from backends.request_leases import request_lease


async def chatting() -> "asyncio.Task[None]":
    """A request that is in flight until somebody ends it."""
    began = asyncio.Event()

    async def chat() -> None:
        async with request_lease("fake", "r1"):
            began.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(chat())
    await began.wait()
    return task


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
    task = await chatting()
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
    monkeypatch.setattr(lease_holder, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(lease_holder, "RENEW_SECONDS", 0.1)
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


# --- kept for the next ------------------------------------------------------------------------------


async def kept(backend: str = "fake", token: str = "") -> None:
    """Return when a lease is kept: from when its loop hears of gates."""
    async with asyncio.timeout(5):
        while True:
            async with request_lease(backend, "first", token):
                pass
            if leases.in_flight(backend):
                return
            await asyncio.sleep(0.01)


def taken(broker: "redis.Redis") -> int:
    """How often the broker was asked for a lease."""
    stats = broker.info("commandstats").get("cmdstat_eval", {})
    return int(stats.get("calls", 0))


async def none_in_flight(backend: str = "fake", *, within: float) -> None:
    await until(lambda: not leases.in_flight(backend), within=within)


async def until(condition: Callable[[], object], *, within: float) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - the broker has no event for it
            await asyncio.sleep(0.002)


@pytest.fixture
def keeping(clean_broker: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> "redis.Redis":
    """A broker, and leases that are kept for longer than any test takes."""
    monkeypatch.setattr(lease_holder, "KEEP_SECONDS", 60)
    return clean_broker


async def test_the_next_request_takes_over_without_asking(keeping: "redis.Redis") -> None:
    await kept()
    before = taken(keeping)
    for _ in range(20):
        async with request_lease("fake", "next"):
            assert leases.in_flight("fake") == 1
    assert taken(keeping) == before
    async with request_lease("fake", "one"), request_lease("fake", "two"):
        assert leases.in_flight("fake") == 2
    assert taken(keeping) == before + 1


async def test_what_nobody_takes_over_is_given_back_soon(clean_broker: "redis.Redis") -> None:
    await kept()
    await none_in_flight(within=lease_holder.KEEP_SECONDS + 1)


@pytest.mark.parametrize("token", ["another", ""])
async def test_it_is_taken_over_for_what_it_was_taken_for(
    keeping: "redis.Redis", token: str
) -> None:
    await kept("fake", "one")
    before = taken(keeping)
    async with request_lease("fake", "next", token):
        pass
    async with request_lease("other", "next", "one"):
        pass
    assert taken(keeping) == before + 2


@pytest.mark.parametrize(
    ("close", "code"),
    [(leases.gate_close, BackendNotRunning), (leases.gate_hold, BackendHeld)],
)
async def test_a_gate_that_closes_has_it_given_back_at_once(
    keeping: "redis.Redis",
    close: Callable[[str], None],
    code: type[BackendNotRunning],
) -> None:
    await kept()
    close("fake")
    await none_in_flight(within=0.5)
    with pytest.raises(code):
        async with request_lease("fake", "next"):
            pass
    leases.gate_open("fake")
    await kept()


async def test_what_was_in_flight_when_a_gate_closed_is_not_kept(keeping: "redis.Redis") -> None:
    await kept()
    async with request_lease("fake", "running"):
        leases.gate_hold("fake")
        await asyncio.sleep(0.1)
        leases.gate_open("fake")
    assert leases.in_flight("fake") == 0


async def test_a_closed_gate_is_seen_without_being_heard(
    keeping: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker on another machine may lose us, and we do not hear of that."""
    monkeypatch.setattr(lease_holder, "RENEW_SECONDS", 0.1)
    await kept()
    keeping.set(leases.gate_key("fake"), leases.HELD)
    await none_in_flight(within=1)


async def test_something_else_serving_has_it_given_back(keeping: "redis.Redis") -> None:
    leases.serving_set("fake", "one")
    await kept("fake", "one")
    leases.serving_set("fake", "two")
    await none_in_flight(within=0.5)
    with pytest.raises(BackendMoved):
        async with request_lease("fake", "next", "one"):
            pass


async def test_a_cut_is_heard_at_once(keeping: "redis.Redis") -> None:
    """Not only with the next renewal, a second later."""
    await kept()
    task = await chatting()
    await asyncio.sleep(0.05)
    leases.cut("fake")
    with pytest.raises(BackendNotRunning):
        await asyncio.wait_for(task, 0.5)
    await none_in_flight(within=0.5)


async def test_who_does_not_hear_keeps_nothing(
    keeping: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_holder, "RENEW_SECONDS", 0.3)
    await kept()
    keeping.client_kill_filter(_type="pubsub")
    await none_in_flight(within=0.2)
    async with request_lease("fake", "next"):
        pass
    assert leases.in_flight("fake") == 0
    await kept()


async def test_a_process_that_was_stopped_for_long_asks_again(
    keeping: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept()
    before = taken(keeping)
    monkeypatch.setattr(lease_holder, "_SURE_SECONDS", -1)
    async with request_lease("fake", "next"):
        assert leases.in_flight("fake") == 1
    assert taken(keeping) == before + 1


async def test_taking_over_counts_as_use(
    keeping: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_holder, "RENEW_SECONDS", 0.1)
    await kept()
    await asyncio.sleep(0.15)
    before = time.time()
    async with request_lease("fake", "next"):
        pass
    await until(lambda: (leases.last_used("fake") or 0) >= before, within=2)


async def test_a_burst_leaves_no_more_than_are_needed(
    keeping: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_holder, "RENEW_SECONDS", 0.1)
    await kept()
    async with request_lease("fake", "long"):
        together = asyncio.Barrier(20)

        async def one() -> None:
            async with request_lease("fake", "burst"):
                await together.wait()

        await asyncio.gather(*(one() for _ in range(20)))
        assert leases.in_flight("fake") > 10
        await until(lambda: leases.in_flight("fake") < 2, within=2)
        assert leases.in_flight("fake") == 1


async def test_when_nothing_is_in_flight_nobody_is_inside(clean_broker: "redis.Redis") -> None:
    """The promise of it all: an engine is stopped when nothing is in flight and the gate is closed."""
    inside = most = refused = served = 0
    over = False

    async def client() -> None:
        nonlocal inside, most, refused, served
        while not over:
            try:
                async with request_lease("fake", "r"):
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0.001)
                    inside -= 1
                    served += 1
            except BackendHeld:
                refused += 1
                await asyncio.sleep(0.002)

    await kept()
    clients = [asyncio.create_task(client()) for _ in range(10)]
    for _ in range(25):
        await asyncio.sleep(0.03)
        leases.gate_hold("fake")
        await none_in_flight(within=2)
        seen = served
        for _ in range(5):
            assert inside == 0
            await asyncio.sleep(0.002)
        assert served == seen
        leases.gate_open("fake")
    over = True
    await asyncio.gather(*clients)
    assert most > 5
    assert served > 1000
    assert refused > 25


def test_a_process_that_ends_leaves_none_behind(clean_broker: "redis.Redis") -> None:
    program = """
import asyncio, django
django.setup()
from backends import leases
from backends.request_leases import request_lease

async def main():
    while not leases.in_flight("fake"):
        async with request_lease("fake", "r"):
            pass
        await asyncio.sleep(0.01)

asyncio.run(main())
print(leases.in_flight("fake"))
"""
    environment = {**os.environ, "REDIS_URL": settings.REDIS_URL}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "1", done.stderr
    assert leases.in_flight("fake") == 0
