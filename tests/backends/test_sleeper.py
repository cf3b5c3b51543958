"""An engine with vLLM's sleep mode inside the site: started, put to sleep, woken, on real processes."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings

from backends import selectors, services, supervisor
from backends.engines import registry
from backends.engines.base import Engine, Target
from backends.errors import StopFailed
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationState
from backends.operations.runner import run_operations
from backends.ports import free_port
from tests.backends.conftest import FakeBackend

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


@pytest.fixture
def sleeper(fake: Make, monkeypatch: pytest.MonkeyPatch, owner_actor: Any) -> Iterator[Make]:
    """Make the backend ``sleeper`` with options, and start it; ``fake`` is there to switch to."""
    from mh_fake_engine import SleeperEngine

    engines = {**registry.engines(), "sleeper": SleeperEngine()}
    monkeypatch.setattr(registry, "engines", lambda: engines)

    def make(**options: Any) -> FakeBackend:
        port = free_port()
        Backend.objects.create(
            name="sleeper",
            engine="sleeper",
            node=settings.MH_NODE,
            options={"port": port, **options},
            state_since=selectors.now(),
        )
        made = FakeBackend(name="sleeper", port=port)
        services.backend_start(actor=owner_actor, name="sleeper", foreground=True)
        made.run()
        assert made.row.state == State.READY, made.row.failure
        return made

    yield make
    for inst in supervisor.find(settings.MH_HOME, "sleeper"):
        supervisor.stop(inst, grace=0.2)


def engine_and_target(backend: FakeBackend) -> tuple[Engine, Target]:
    row = backend.row
    engine = selectors.backend_engine(row)
    options = selectors.backend_options(row)
    assert engine.can_park(options)
    return engine, Target(endpoint=row.endpoint, served_model=row.model, options=options)


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_as_deep_as_its_options_say_and_answers_again(sleeper: Make, level: int) -> None:
    backend = sleeper(sleepLevel=level)
    before = backend.pids()
    engine, target = engine_and_target(backend)
    engine.park(target, timeout=10)
    state = httpx.get(f"{target.endpoint}/_fake/state", trust_env=False).json()
    assert state["level"] == level
    assert engine.metrics(target, timeout=5).asleep is True
    engine.unpark(target, timeout=10)
    assert engine.metrics(target, timeout=5).asleep is False
    engine.warm_up(target, timeout=5)
    assert backend.pids() == before


def test_where_sleep_fails_the_caller_hears_it_and_can_stop_it(
    sleeper: Make, owner_actor: Any
) -> None:
    backend = sleeper(arguments="--behaviour sleep-fails")
    engine, target = engine_and_target(backend)
    with pytest.raises(StopFailed, match="500"):
        engine.park(target, timeout=10)
    services.backend_stop(actor=owner_actor, name="sleeper", foreground=True)
    backend.run()
    assert (backend.row.state, backend.pids()) == (State.STOPPED, ())


def switch(actor: Any, name: str) -> Operation:
    row = services.backend_switch(actor=actor, name=name, foreground=True)
    run_operations(settings.MH_NODE)
    row.refresh_from_db()
    assert row.state == OperationState.SUCCEEDED, row.error
    return row


def serves(backend: FakeBackend) -> None:
    assert backend.row.state == State.READY
    _, target = engine_and_target(backend)
    selectors.backend_engine(backend.row).warm_up(target, timeout=5)


@pytest.mark.parametrize("level", [1, 2])
def test_a_switch_puts_it_to_sleep_and_the_switch_back_wakes_it(
    sleeper: Make, fake: Make, owner_actor: Any, level: int
) -> None:
    backend = sleeper(sleepLevel=level)
    fake()
    before = backend.pids()
    switch(owner_actor, "fake")
    assert backend.row.state == State.PARKED
    state = httpx.get(f"{backend.row.endpoint}/_fake/state", trust_env=False).json()
    assert state["level"] == level
    switch(owner_actor, "sleeper")
    serves(backend)
    assert backend.pids() == before


@pytest.mark.parametrize(
    ("habit", "asleep"),
    [("sleep-fails", False), ("sleep-dies", True), ("wake-dies", True), ("reload-fails", True)],
)
def test_whatever_fails_the_switches_work(
    sleeper: Make, fake: Make, owner_actor: Any, habit: str, asleep: bool
) -> None:
    backend = sleeper(sleepLevel=2, arguments=f"--behaviour {habit}")
    fake()
    before = backend.pids()
    switch(owner_actor, "fake")
    assert backend.row.state in ({State.PARKED, State.STOPPED} if asleep else {State.STOPPED})
    switch(owner_actor, "sleeper")
    serves(backend)
    assert not set(before) & set(backend.pids())


def test_without_sleep_mode_it_is_stopped(sleeper: Make, fake: Make, owner_actor: Any) -> None:
    backend = sleeper(sleepMode=False)
    fake()
    switch(owner_actor, "fake")
    assert (backend.row.state, backend.pids()) == (State.STOPPED, ())
