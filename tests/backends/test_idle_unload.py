"""Memory is given back when nobody asks for anything; a request that comes first wins."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.conf import settings

from accounts.actors import Actor
from audit.models import Event
from backends import bus, leases, selectors, services
from backends.errors import BackendNotRunning, OperationConflict
from backends.idleness import Idleness
from backends.lifecycle import State
from backends.models import Operation, OperationKind, OperationState
from backends.request_leases import request_lease
from tests.backends.conftest import FakeBackend
from tests.backends.test_change_model import here, run, server, started
from tests.backends.test_operations import ended
from tests.backends.test_switch import chat, is_gone, lose_the_runner, serves, step_names

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def idle(fake: Make, owner_actor: Actor) -> FakeBackend:
    """A backend that runs and is to give its memory back after ten minutes."""
    bus.worker_beat(settings.MH_NODE)
    return started(fake, owner_actor, idleUnloadSeconds=600)


def look(backend: FakeBackend, seen: Idleness) -> list[str]:
    bus.worker_beat(settings.MH_NODE)
    return seen.look([backend.row], ())


def hold_a_lease(seconds: float = 60) -> None:
    bus.redis_client().zadd("mh:leases:fake", {"somebody": time.time() + seconds})


def asked() -> Operation:
    return Operation.objects.get(kind=OperationKind.UNLOAD)


def test_it_is_asked_for_after_the_time_and_not_before(idle: FakeBackend) -> None:
    clock = Clock()
    seen = Idleness(clock)
    assert look(idle, seen) == []
    clock.ahead = 601
    assert look(idle, seen) == ["fake"]
    idle.run()
    assert ended(asked()).state == OperationState.SUCCEEDED, ended(asked()).error
    assert step_names(asked()) == ["settle", "release"]
    is_gone(idle)
    requested = Event.objects.get(event="operation.requested", message="unload fake")
    assert requested.surface == "system"
    assert look(idle, seen) == [], "what is off has nothing to give back"


def test_a_chat_counts_from_its_beginning_and_one_under_way_until_its_end(
    idle: FakeBackend, owner_actor: Actor
) -> None:
    clock = Clock()
    seen = Idleness(clock)
    chat(owner_actor)
    last = leases.last_used("fake")
    assert last
    assert time.time() - last < 60
    clock.ahead = 601
    hold_a_lease()
    assert look(idle, seen) == []
    bus.redis_client().delete("mh:leases:fake")
    clock.ahead = 1100
    assert look(idle, seen) == []
    clock.ahead = 1300
    assert look(idle, seen) == ["fake"]


def test_without_the_option_it_stays(fake: Make, owner_actor: Actor) -> None:
    backend = started(fake, owner_actor)
    clock = Clock()
    seen = Idleness(clock)
    clock.ahead = 1e9
    assert look(backend, seen) == []


def test_a_backend_that_an_operation_is_about_is_left_alone(idle: FakeBackend) -> None:
    clock = Clock()
    seen = Idleness(clock)
    clock.ahead = 601
    assert seen.look([idle.row], {"fake"}) == []


def test_while_the_broker_is_away_nobody_is_idle(
    idle: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    seen = Idleness(clock)
    clock.ahead = 601

    def away() -> Any:
        raise redis.ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(bus, "redis_client", away)
        assert seen.idle_seconds(idle.row) is None
        assert leases.gate_hold_if_idle("fake") is False


def test_a_request_in_flight_makes_it_give_up(idle: FakeBackend, owner_actor: Actor) -> None:
    row = services.backend_unload(actor=Actor.system(), name="fake", foreground=True)
    hold_a_lease()
    before = idle.pids()
    idle.run()
    assert ended(row).state == OperationState.CANCELLED
    assert "in use" in ended(row).error["message"]
    assert idle.pids() == before
    bus.redis_client().delete("mh:leases:fake")
    assert chat(owner_actor)["backend"] == "fake"


def test_a_request_that_came_and_went_since_makes_it_give_up(
    idle: FakeBackend, owner_actor: Actor
) -> None:
    row = services.backend_unload(actor=Actor.system(), name="fake", foreground=True)
    chat(owner_actor)
    idle.run()
    assert ended(row).state == OperationState.CANCELLED
    serves(idle, "fake-model")


def test_of_a_request_and_an_unload_at_the_same_moment_one_wins(idle: FakeBackend) -> None:
    """Whoever comes first, the other one hears of it: never both, never neither."""

    async def request() -> bool:
        try:
            async with request_lease("fake", "r"):
                await asyncio.sleep(0.01)
                return True
        except BackendNotRunning:
            return False

    async def both() -> tuple[bool, bool]:
        closing = asyncio.to_thread(leases.gate_hold_if_idle, "fake")
        answers = await asyncio.gather(request(), closing)
        return answers[0], answers[1]

    for _ in range(30):
        leases.gate_open("fake")
        served, closed = asyncio.run(both())
        assert served or closed
        if closed:
            # A lease taken and given back before the gate closed is the one case of both.
            assert leases.in_flight("fake") == 0
    leases.gate_open("fake")


def test_an_unload_whose_runner_died_is_resumed(
    idle: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = services.backend_unload(actor=Actor.system(), name="fake", foreground=True)
    lose_the_runner("release", idle.run, monkeypatch)
    idle.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    is_gone(idle)


def test_a_start_waits_for_an_unload_and_is_not_refused(
    idle: FakeBackend, owner_actor: Actor
) -> None:
    services.backend_unload(actor=Actor.system(), name="fake", foreground=True)
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    idle.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    serves(idle, "fake-model")


def test_what_does_not_run_is_refused(fake: Make, owner_actor: Actor) -> None:
    fake()
    with pytest.raises(OperationConflict, match="nothing to give back"):
        services.backend_unload(actor=owner_actor, name="fake", foreground=True)


def test_ollama_is_parked_and_comes_back(ollama: Callable[..., Any], owner_actor: Actor) -> None:
    ollama(idleUnloadSeconds=600)
    services.backend_start(actor=owner_actor, name="ollama", foreground=True)
    run()
    pid = server()
    services.backend_unload(actor=Actor.system(), name="ollama", foreground=True)
    run()
    assert (here().state, server()) == (State.PARKED, pid)
    row = services.backend_start(actor=owner_actor, name="ollama", foreground=True)
    run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert (here().state, server()) == (State.READY, pid)
    assert selectors.serving_target("ollama").backend == "ollama"
