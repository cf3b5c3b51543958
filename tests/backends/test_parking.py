"""A backend gives its memory back and stays alive, and comes back from that; or is stopped after all."""

import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from accounts.actors import Actor
from backends import ports, selectors, services, supervisor
from backends.engines.base import Capabilities
from backends.engines.ollama import OllamaEngine
from backends.errors import BackendNotRunning, StartFailed, StopFailed
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationState, StartKind, StartRecord
from backends.observer import Observer
from tests.backends.conftest import OLLAMA_MODEL, FakeBackend
from tests.backends.test_change_model import here, loaded, run, server
from tests.backends.test_operations import ended, wait_for
from tests.backends.test_switch import (
    Make,
    Pair,
    chat,
    is_gone,
    lose_the_runner,
    serves,
    switch,
    two,
)

__all__ = ["two"]
pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def can_park(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake engines say that they can; the real ones say so by themselves."""
    from mh_fake_engine import FakeEngine

    monkeypatch.setattr(FakeEngine, "capabilities", Capabilities(park=True))


@pytest.fixture
def parked(two: Callable[..., Pair], owner_actor: Actor) -> Callable[..., Pair]:
    """``fake`` is parked, ``fake2`` serves."""

    def make(**options: Any) -> Pair:
        old, new = two(**options)
        row = switch(owner_actor)
        new.run()
        assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
        assert old.row.state == State.PARKED
        return old, new

    return make


def start(actor: Actor, backend: FakeBackend, **more: Any) -> Operation:
    row = services.backend_start(actor=actor, name=backend.name, foreground=True, **more)
    backend.run()
    return ended(row)


def engine_pid(backend: FakeBackend) -> int:
    (inst,) = supervisor.find(_home(), backend.name)
    pid = supervisor.inspect(inst).engine_pid
    assert pid
    return pid


def _home() -> Any:
    from django.conf import settings

    return settings.MH_HOME


def misbehave(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception) -> None:
    from mh_fake_engine import FakeEngine

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FakeEngine, method, fail)


# Giving way.


def test_a_switch_parks_the_old_one_and_back_wakes_it(
    parked: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = parked()
    pid = engine_pid(old)
    serves(new, "fake-model")
    assert chat(owner_actor)["backend"] == "fake2"
    assert selectors.status()["available"]["fake"]["running"] is False

    back = switch(owner_actor, "fake")
    old.run()
    # It was started with another model than the configured one.
    assert ended(back).state == OperationState.SUCCEEDED, ended(back).error
    assert (engine_pid(old), new.row.state) == (pid, State.PARKED)
    serves(old, "other-model")
    assert chat(owner_actor)["backend"] == "fake"
    record = StartRecord.objects.filter(kind=StartKind.UNPARK).get()
    assert (record.backend_id, record.model) == ("fake", "other-model")


@pytest.mark.parametrize("error", [StopFailed("no"), httpx.ReadError("no"), NotImplementedError()])
def test_what_cannot_be_parked_is_stopped(
    two: Callable[..., Pair],
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    old, new = two()
    misbehave(monkeypatch, "park", error)
    row = switch(owner_actor)
    new.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    is_gone(old)


def test_what_is_set_to_stop_is_stopped(two: Callable[..., Pair], owner_actor: Actor) -> None:
    old, new = two()
    services.backend_configure(actor=owner_actor, name="fake", options={"parking": "stop"})
    switch(owner_actor)
    new.run()
    is_gone(old)


def test_one_whose_port_is_needed_is_stopped(fake: Make, owner_actor: Actor) -> None:
    old = fake()
    new = fake("fake2", port=old.port)
    start(owner_actor, old)
    switch(owner_actor)
    new.run()
    assert old.row.state == State.STOPPED
    serves(new, "fake-model")


def test_a_parked_one_on_the_port_that_another_needs_is_stopped(
    parked: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = parked()
    services.backend_stop(actor=owner_actor, name="fake2", foreground=True)
    new.run()
    services.backend_configure(actor=owner_actor, name="fake2", options={"port": old.port})
    row = start(owner_actor, new)
    assert row.state == OperationState.SUCCEEDED, row.error
    assert old.row.state == State.STOPPED
    assert len(supervisor.find(_home(), "fake")) == 0


def test_a_failed_switch_wakes_what_it_parked(two: Callable[..., Pair], owner_actor: Actor) -> None:
    old, new = two(arguments="--behaviour exit=error")
    pid = engine_pid(old)
    row = switch(owner_actor)
    new.run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    serves(old, "other-model")
    assert engine_pid(old) == pid
    is_gone(new, State.FAILED)


@pytest.mark.parametrize("at", ["park", "start"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_switch_that_parks_and_whose_runner_died_is_resumed_or_undone(
    two: Callable[..., Pair],
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    cancelled: bool,
) -> None:
    old, new = two()
    row = switch(owner_actor)
    lose_the_runner(at, new.run, monkeypatch)
    if cancelled:
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    new.run()
    assert ended(row).state == ("cancelled" if cancelled else "succeeded"), ended(row).error
    assert old.row.state == (State.READY if cancelled else State.PARKED)
    serves(old, "other-model") if cancelled else serves(new, "fake-model")
    assert chat(owner_actor)["backend"] == ("fake" if cancelled else "fake2")


# Coming back.


def test_a_changed_configuration_starts_it_anew(
    parked: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, _ = parked()
    pid = engine_pid(old)
    services.backend_configure(actor=owner_actor, name="fake", options={"arguments": "--tokens 2"})
    row = switch(owner_actor, "fake")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert engine_pid(old) != pid
    serves(old, "other-model")


@pytest.mark.parametrize(
    ("method", "error"),
    [("unpark", StartFailed("no")), ("unpark", NotImplementedError()), ("unpark", OSError("no"))],
)
def test_one_that_does_not_wake_is_started_anew(
    parked: Callable[..., Pair],
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: Exception,
) -> None:
    old, _ = parked()
    pid = engine_pid(old)
    misbehave(monkeypatch, method, error)
    row = switch(owner_actor, "fake")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert engine_pid(old) != pid
    serves(old, "other-model")


def test_one_that_wakes_and_does_not_answer_is_started_anew(
    parked: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    old, _ = parked()
    pid = engine_pid(old)
    monkeypatch.setattr(FakeEngine, "unpark", lambda *_, **__: None)
    warm_up = FakeEngine.warm_up

    def impatient(self: Any, target: Any, *, timeout: float, **more: Any) -> None:
        warm_up(self, target, timeout=min(timeout, 2), **more)

    monkeypatch.setattr(FakeEngine, "warm_up", impatient)
    row = switch(owner_actor, "fake")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert engine_pid(old) != pid


def test_one_that_died_meanwhile_is_started_anew(
    parked: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, _ = parked()
    os.kill(engine_pid(old), signal.SIGKILL)
    wait_for(lambda: not old.pids())
    row = switch(owner_actor, "fake")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    serves(old, "other-model")


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_return_whose_runner_died_is_resumed_or_undone(
    parked: Callable[..., Pair],
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    cancelled: bool,
) -> None:
    old, new = parked()
    pid = engine_pid(old)
    row = switch(owner_actor, "fake")
    lose_the_runner("unpark", old.run, monkeypatch)
    assert old.row.state == State.STARTING
    if cancelled:
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    old.run()
    if cancelled:
        assert ended(row).state == OperationState.CANCELLED, ended(row).error
        serves(new, "fake-model")
        is_gone(old)
    else:
        assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
        serves(old, "other-model")
        assert engine_pid(old) == pid


# While it is parked.


def test_a_stop_leaves_nothing_of_it(parked: Callable[..., Pair], owner_actor: Actor) -> None:
    old, _ = parked()
    row = services.backend_stop(actor=owner_actor, name="fake", foreground=True)
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    is_gone(old)


def test_a_restart_starts_a_new_process(parked: Callable[..., Pair], owner_actor: Actor) -> None:
    old, _ = parked()
    pid = engine_pid(old)
    row = services.backend_restart(actor=owner_actor, name="fake", foreground=True)
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert engine_pid(old) != pid


def test_another_model_for_it_is_only_configured(
    parked: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = parked()
    row = services.backend_change_model(
        actor=owner_actor, name="fake", model="other-model", foreground=True
    )
    assert row.state == OperationState.SUCCEEDED
    assert (old.row.state, new.row.state) == (State.PARKED, State.READY)


def test_who_asks_it_is_told(parked: Callable[..., Pair]) -> None:
    parked()
    with pytest.raises(BackendNotRunning, match="gave its memory back"):
        selectors.serving_target("fake")


def test_the_observer_leaves_it_alone_and_sees_it_die(parked: Callable[..., Pair]) -> None:
    old, _ = parked()
    observer = Observer()
    for _ in range(3):
        observer._next_probe = 0.0
        observer.look()
    assert old.row.state == State.PARKED
    os.kill(engine_pid(old), signal.SIGKILL)
    wait_for(lambda: observer.look() or old.row.state == State.FAILED)
    assert "ended unexpectedly" in old.row.failure
    assert old.pids() == ()
    assert ports.port_holder(old.port, "127.0.0.1") is None


# Ollama, which is parked by unloading.


def test_ollama_stays_without_a_model_and_loads_it_again(
    ollama: Callable[..., Backend], fake: Make, owner_actor: Actor
) -> None:
    other = fake()
    ollama()
    services.backend_start(actor=owner_actor, name="ollama", foreground=True)
    run()
    pid = server()
    switch(owner_actor, "fake")
    run()
    assert (here().state, server()) == (State.PARKED, pid)
    assert OllamaEngine().loaded(selectors.backend_target(here()), timeout=5) == []
    serves(other, "fake-model")

    row = switch(owner_actor, "ollama")
    run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert (here().state, server(), loaded()) == (State.READY, pid, [OLLAMA_MODEL])
    assert other.row.state == State.PARKED


def test_an_ollama_that_does_not_unload_is_stopped(
    ollama: Callable[..., Backend],
    fake: Make,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from backends.operations.steps import parking

    monkeypatch.setattr(parking, "PARK_SECONDS", 0.5)
    fake()
    ollama("unload-never", stopTimeoutSeconds=1)
    services.backend_start(actor=owner_actor, name="ollama", foreground=True)
    run()
    row = switch(owner_actor, "fake")
    run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert here().state == State.STOPPED
    assert supervisor.find(_home(), "ollama") == []
