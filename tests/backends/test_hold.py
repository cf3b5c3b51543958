"""Requests wait while an engine starts or switches, and are answered by what comes: on real processes."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.models import User
from audit.models import Event
from backends import bus, holding, leases, selectors, services
from backends.lifecycle import State
from backends.models import Operation, OperationKind, OperationState
from router.models import ModelEntry
from router.schemas import ChatRequest
from router.services import chat
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import ended

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]
Events = list[dict[str, Any]]


@pytest.fixture
def visitor(standard: User) -> Actor:
    """Somebody who may chat, and operate nothing."""
    return Actor(user=standard, surface="rest", request_id="visit")


@pytest.fixture
def two(fake: Make, owner_actor: Actor) -> Callable[..., tuple[FakeBackend, FakeBackend]]:
    """``fake`` runs; ``fake2``, with the options given, does not."""

    def make(**options: Any) -> tuple[FakeBackend, FakeBackend]:
        old, new = fake(), fake("fake2", **options)
        services.backend_start(actor=owner_actor, name="fake", foreground=True)
        old.run()
        assert old.row.state == State.READY
        bus.worker_beat(settings.MH_NODE)
        return old, new

    return make


@asynccontextmanager
async def worker() -> AsyncIterator[None]:
    """Be the worker, beside what the test does."""
    done = threading.Event()

    def work() -> None:
        from django.db import connections

        from backends.operations.runner import run_operations

        while not done.wait(0.05):
            run_operations(settings.MH_NODE)
        connections.close_all()

    def beat() -> None:
        while not done.wait(0.5):
            bus.worker_beat(settings.MH_NODE)

    bus.worker_beat(settings.MH_NODE)
    threads = [threading.Thread(target=each, daemon=True) for each in (work, beat)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 30)


async def ask(actor: Actor, **what: Any) -> Events:
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}], **what)
    async with aclosing(chat(actor=actor, request=request)) as events:
        return [dict(event) async for event in events]


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await sync_to_async(function, thread_sensitive=False)(*args, **kwargs)


async def until(question: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def kinds(events: Events) -> list[str]:
    return list(dict.fromkeys(event["type"] for event in events))


async def test_a_request_that_comes_during_a_switch_is_answered_by_the_new_engine(
    two: Callable[..., Any], owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(two, arguments="--start-delay 1")
    row = await in_thread(services.backend_switch, actor=owner_actor, name="fake2")
    async with worker():
        await until(lambda: leases.bus.redis_client().exists("mh:gate:fake"))
        events = await ask(visitor)
    assert kinds(events) == ["queued", "start", "token", "done"]
    queued = events[0]
    assert queued["position"] == 1
    assert queued["reason"]
    start = next(event for event in events if event["type"] == "start")
    assert start["backend"] == "fake2"
    assert events[-1]["timings"]["queued_ms"] > 0
    assert (await in_thread(ended, row)).state == OperationState.SUCCEEDED


async def test_a_request_that_comes_during_a_restart_is_answered_after_it(
    two: Callable[..., Any], owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(two)
    await in_thread(services.backend_restart, actor=owner_actor, name="fake")
    answers = [asyncio.create_task(ask(visitor)) for _ in range(5)]
    async with worker():
        found = await asyncio.gather(*answers)
        assert all(events[-1]["type"] == "done" for events in found)


async def test_those_who_wait_know_their_place(
    fake: Make, owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(fake, arguments="--start-delay 2")
    await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    first = asyncio.create_task(ask(visitor))
    await until(lambda: holding.waiting() == 1)
    second = asyncio.create_task(ask(visitor))
    await until(lambda: holding.waiting() == 2)
    async with worker():
        one, two_ = await asyncio.gather(first, second)
    assert one[0]["position"] == 1
    assert two_[0]["position"] == 2
    assert holding.waiting() == 0
    assert bus.redis_client().zcard("mh:held") == 0


async def test_a_failed_switch_gives_those_who_waited_back_to_the_old_engine(
    two: Callable[..., Any], owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(two, arguments="--behaviour exit=error")
    row = await in_thread(services.backend_switch, actor=owner_actor, name="fake2")
    async with worker():
        await until(lambda: bus.redis_client().exists("mh:gate:fake"))
        events = await ask(visitor)
    assert next(event for event in events if event["type"] == "start")["backend"] == "fake"
    assert events[-1]["type"] == "done"
    assert (await in_thread(ended, row)).state == OperationState.ROLLED_BACK


async def test_a_failed_start_is_told_to_those_who_waited(
    fake: Make, owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(fake, arguments="--behaviour exit=error")
    await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    waiting = asyncio.create_task(ask(visitor))
    await until(lambda: holding.waiting() == 1)
    async with worker():
        with pytest.raises(MhError) as caught:
            await waiting
    assert caught.value.status == 503
    assert "failed" in caught.value.message


async def test_one_that_leaves_while_it_waits_leaves_no_trace(
    fake: Make, owner_actor: Actor, visitor: Actor
) -> None:
    await in_thread(fake)
    await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    waiting = asyncio.create_task(ask(visitor))
    await until(lambda: bus.redis_client().zcard("mh:held") == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: bus.redis_client().zcard("mh:held") == 0)
    assert leases.in_flight("fake") == 0


async def test_a_wait_that_would_be_too_long_is_refused_at_once_with_the_time_it_takes(
    fake: Make, owner_actor: Actor, visitor: Actor, settings: Any
) -> None:
    settings.MH_HOLD_SECONDS = 5
    await in_thread(fake)
    row = await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    await in_thread(Operation.objects.filter(pk=row.pk).update, eta_seconds=90)
    with pytest.raises(MhError) as caught:
        await ask(visitor)
    assert (caught.value.status, caught.value.code) == (503, "wait_too_long")
    assert caught.value.retry_after == 90


async def test_a_request_that_has_waited_too_long_is_refused(
    fake: Make, owner_actor: Actor, visitor: Actor, settings: Any
) -> None:
    settings.MH_HOLD_SECONDS = 1
    await in_thread(fake)
    await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    with pytest.raises(MhError) as caught:
        await ask(visitor)
    assert caught.value.code == "wait_too_long"


async def test_a_crowd_that_is_too_big_is_refused(
    fake: Make, owner_actor: Actor, visitor: Actor, settings: Any
) -> None:
    settings.MH_HOLD_REQUESTS = 1
    await in_thread(fake)
    await in_thread(services.backend_start, actor=owner_actor, name="fake", foreground=True)
    first = asyncio.create_task(ask(visitor))
    await until(lambda: holding.waiting() == 1)
    with pytest.raises(MhError) as caught:
        await ask(visitor)
    assert (caught.value.code, caught.value.retry_after) == ("queue_full", 5)
    first.cancel()


async def test_a_cancelled_hold_lets_requests_through_again(
    two: Callable[..., Any], owner_actor: Actor, visitor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(two)
    row = await in_thread(services.backend_switch, actor=owner_actor, name="fake2")
    hold = leases.gate_hold

    def hold_and_cancel(backend: str) -> None:
        hold(backend)
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))

    monkeypatch.setattr(leases, "gate_hold", hold_and_cancel)
    async with worker():
        await in_thread(selectors.operation_wait, str(row.pk), 20)
        events = await ask(visitor)
    assert events[-1]["type"] == "done"


# -- on demand


def entries(**by_name: str) -> None:
    for name, provider in by_name.items():
        ModelEntry.objects.create(id=name, provider=provider)


async def test_a_chat_starts_a_stopped_backend_where_its_owner_allows_that(
    fake: Make, visitor: Actor
) -> None:
    await in_thread(fake, onDemandStart=True)
    async with worker():
        events = await ask(visitor)
    assert kinds(events) == ["queued", "start", "token", "done"]
    row = await in_thread(Operation.objects.get)
    assert (row.kind, row.requested_by_id) == (OperationKind.START, None)
    found = await in_thread(Event.objects.filter(event="operation.on_demand").get)
    assert found.actor_name == visitor.name


async def test_without_leave_a_stopped_backend_stays_stopped(fake: Make, visitor: Actor) -> None:
    await in_thread(fake)
    async with worker():
        with pytest.raises(MhError) as caught:
            await ask(visitor)
    assert caught.value.code == "backend_not_running"
    assert await in_thread(Operation.objects.count) == 0


async def test_one_that_only_rests_comes_back_with_the_next_chat_and_one_turned_off_does_not(
    two: Callable[..., Any], visitor: Actor, owner_actor: Actor
) -> None:
    old, _ = await in_thread(two)
    rest = await in_thread(
        services.backend_unload, actor=Actor.system(), name="fake", foreground=True
    )
    await in_thread(old.run)
    assert (await in_thread(ended, rest)).state == OperationState.SUCCEEDED
    async with worker():
        events = await ask(visitor)
        assert events[-1]["type"] == "done"
        stop = await in_thread(
            services.backend_stop, actor=owner_actor, name="fake", foreground=True
        )
        await in_thread(selectors.operation_wait, str(stop.pk), 20)
        with pytest.raises(MhError) as caught:
            await ask(visitor)
    assert caught.value.code == "backend_not_running"


async def test_many_chats_for_a_stopped_backend_start_it_once(fake: Make, visitor: Actor) -> None:
    await in_thread(fake, onDemandStart=True)
    async with worker():
        found = await asyncio.gather(*(ask(visitor) for _ in range(8)))
    assert all(events[-1]["type"] == "done" for events in found)
    assert await in_thread(Operation.objects.count) == 1


async def test_a_start_on_demand_that_fails_is_tried_once_for_all_who_wait(
    fake: Make, visitor: Actor
) -> None:
    await in_thread(fake, onDemandStart=True, arguments="--behaviour exit=error")
    async with worker():
        found = await asyncio.gather(*(ask(visitor) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(error, MhError) and error.status == 503 for error in found), found
    assert await in_thread(Operation.objects.count) == 1


async def test_a_chat_for_the_other_backend_waits_for_the_shortest_stay_and_then_switches(
    two: Callable[..., Any], visitor: Actor, owner_actor: Actor
) -> None:
    await in_thread(two, onDemandStart=True)
    await in_thread(
        services.backend_configure,
        actor=owner_actor,
        name="fake",
        options={"minimumStaySeconds": 3},
    )
    await in_thread(entries, other="fake2")
    async with worker():
        events = await ask(visitor, model="other")
    assert next(event for event in events if event["type"] == "start")["backend"] == "fake2"
    row = await in_thread(Operation.objects.filter(kind=OperationKind.SWITCH).get)
    since = await in_thread(
        lambda: Event.objects.filter(event="backend.ready").order_by("pk").first()
    )
    assert (row.created_at - since.created_at).total_seconds() >= 3


async def test_two_who_never_let_go_do_not_starve_a_third(
    two: Callable[..., Any], visitor: Actor, owner_actor: Actor
) -> None:
    """FAULTS 43: the longest wait is bounded by stay, drain and start, whatever the traffic."""
    await in_thread(two, onDemandStart=True, minimumStaySeconds=0.5)
    await in_thread(
        services.backend_configure,
        actor=owner_actor,
        name="fake",
        options={"minimumStaySeconds": 0.5, "onDemandStart": True},
    )
    await in_thread(entries, one="fake", other="fake2")
    stop = asyncio.Event()

    async def keep_asking() -> int:
        count = 0
        while not stop.is_set():
            events = await ask(visitor, model="one")
            assert events[-1]["type"] == "done"
            count += 1
        return count

    async with worker():
        busy = [asyncio.create_task(keep_asking()) for _ in range(2)]
        for _ in range(3):
            async with asyncio.timeout(20):
                events = await ask(visitor, model="other")
            assert events[-1]["type"] == "done"
        stop.set()
        assert all(await asyncio.gather(*busy))
