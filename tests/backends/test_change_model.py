"""Another model: loaded into a running Ollama, or by a restart that is undone when it fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.errors import NotAllowed
from accounts.models import User
from audit.models import Event
from backends import bus, selectors, services, supervisor
from backends.engines.ollama import OllamaEngine
from backends.errors import OperationConflict, PreflightFailed
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationState, StartKind, StartRecord
from backends.operations.runner import run_operations
from tests.backends.conftest import OLLAMA_MODEL, FakeBackend
from tests.backends.test_operations import ended, wait_for
from tests.backends.test_switch import is_gone, lose_the_runner, serves, step_names
from tests.fakes import fake_ollama

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]
OTHER = "other:1b"
STEPS_RESTART = ["preflight", "hold", "drain", "release", "start", "warm", "commit", "resume"]
STEPS_LOAD = ["preflight", "hold", "drain", "load", "warm", "unload", "commit", "resume"]


def change(actor: Actor, model: str, name: str = "fake") -> Operation:
    return services.backend_change_model(actor=actor, name=name, model=model, foreground=True)


def started(make: Make, actor: Actor, **options: Any) -> FakeBackend:
    backend = make()
    services.backend_configure(actor=actor, name="fake", options=options)
    services.backend_start(actor=actor, name="fake", foreground=True)
    backend.run()
    assert backend.row.state == State.READY
    return backend


# An engine that serves one model per process.


def test_vllms_kind_is_restarted_with_the_new_model_and_keeps_it(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    row = change(owner_actor, "other-model")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert step_names(row) == STEPS_RESTART
    serves(backend, "other-model")
    assert backend.row.options["model"] == "other-model"


def test_the_model_it_serves_already_changes_nothing(fake: Make, owner_actor: Actor) -> None:
    backend = started(fake, owner_actor)
    before = backend.pids()
    row = change(owner_actor, "fake-model")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert step_names(row) == ["preflight", "commit"]
    assert backend.pids() == before


def test_a_model_that_is_not_there_is_found_before_anything_is_touched(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    before = backend.pids()
    row = change(owner_actor, "no-such-model")
    backend.run()
    assert ended(row).error["code"] == "model_not_found"
    assert step_names(row) == ["preflight"]
    assert backend.pids() == before


def test_a_model_that_fails_is_rolled_back_to_the_one_before(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = started(fake, owner_actor)
    only(monkeypatch, "fake-model")
    row = change(owner_actor, "other-model")
    backend.run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    assert ended(row).error["message"].endswith("Fake engine serves fake-model again.")
    serves(backend, "fake-model")
    assert backend.row.options.get("model") is None


def only(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Have every other model fail its first token."""
    from mh_fake_engine import FakeEngine

    warm_up = FakeEngine.warm_up

    def fail(self: Any, target: Any, **more: Any) -> None:
        if target.served_model != model:
            raise httpx.ReadError("gone")
        warm_up(self, target, **more)

    monkeypatch.setattr(FakeEngine, "warm_up", fail)


def test_a_cancel_during_the_restart_brings_the_model_before_back(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = started(fake, owner_actor)
    services.backend_configure(
        actor=owner_actor, name="fake", options={"arguments": "--start-delay 60"}
    )
    row = change(owner_actor, "other-model")
    worker = backend.run_in_thread()
    wait_for(lambda: backend.row.state == State.STARTING and backend.pids())
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    worker.join(20)
    assert ended(row).state == OperationState.CANCELLED
    serves(backend, "fake-model")


def test_a_stop_during_the_restart_stops_and_starts_nothing_again(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    services.backend_configure(
        actor=owner_actor, name="fake", options={"arguments": "--start-delay 60"}
    )
    row = change(owner_actor, "other-model")
    worker = backend.run_in_thread()
    wait_for(lambda: backend.row.state == State.STARTING and backend.pids())
    stop = services.backend_stop(actor=owner_actor, name="fake", foreground=True)
    worker.join(20)
    assert (ended(row).state, ended(stop).state) == ("cancelled", "succeeded")
    assert "again" not in ended(row).error["message"]
    is_gone(backend)


@pytest.mark.parametrize("at", ["drain", "release", "start", "warm", "commit"])
def test_a_change_by_restart_whose_runner_died_is_resumed(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    backend = started(fake, owner_actor)
    row = change(owner_actor, "other-model")
    lose_the_runner(at, backend.run, monkeypatch)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    serves(backend, "other-model")


# What does not run.


def test_a_stopped_backend_is_only_told(fake: Make, owner_actor: Actor) -> None:
    backend = fake()
    row = change(owner_actor, "other-model")
    assert row.state == OperationState.SUCCEEDED
    assert "will serve other-model when it is started" in row.steps.get().message
    assert backend.row.options["model"] == "other-model"
    assert backend.row.state == State.STOPPED
    names = set(Event.objects.values_list("event", flat=True))
    assert {"operation.requested", "backend.configured", "operation.succeeded"} <= names


def test_a_stopped_backend_is_not_told_of_a_model_it_has_not(
    fake: Make, owner_actor: Actor
) -> None:
    backend = fake()
    with pytest.raises(PreflightFailed, match="no-such-model"):
        change(owner_actor, "no-such-model")
    assert "model" not in backend.row.options
    assert Event.objects.filter(event="operation.change_model_refused").exists()


def test_by_rest(fake: Make, owner: User, standard: User) -> None:
    backend = fake()
    bus.worker_beat(settings.MH_NODE)
    client, url = Client(), "/api/llm-backend/fake/model"
    client.force_login(owner)
    assert client.post(url, {}, "application/json").status_code == 422
    assert client.post(url, {"model": "nope"}, "application/json").status_code == 422
    answer = client.post(url, {"model": "other-model"}, "application/json")
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.json()["kind"] == "change_model"
    assert backend.row.options["model"] == "other-model"
    with pytest.raises(NotAllowed):
        change(Actor(user=standard, surface="rest"), "other-model")


# An engine that serves many.


def here() -> Backend:
    return Backend.objects.get(name="ollama")


def loaded() -> list[str]:
    return [m.id for m in OllamaEngine().loaded(selectors.backend_target(here()), timeout=5)]


def run() -> None:
    run_operations(settings.MH_NODE)


@pytest.fixture
def two_models(
    ollama: Callable[..., Backend], owner_actor: Actor, tmp_path: Path
) -> Callable[..., int]:
    """Run Ollama with one model loaded and another one in its store; the server's pid."""

    def make(*habits: str, **options: Any) -> int:
        ollama(*habits, **options)
        fake_ollama.add_model(tmp_path / "models", OTHER)
        services.backend_start(actor=owner_actor, name="ollama", foreground=True)
        run()
        assert here().state == State.READY
        return server()

    return make


def server() -> int:
    (inst,) = supervisor.find(settings.MH_HOME, "ollama")
    pid = supervisor.inspect(inst).engine_pid
    assert pid
    return pid


def habits(*words: str) -> None:
    httpx.post(f"{here().endpoint}/_fake/habits", json={"habits": words}, trust_env=False)


def test_ollama_loads_the_new_model_and_unloads_the_old_one_in_the_same_process(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    pid = two_models()
    row = change(owner_actor, OTHER, "ollama")
    run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert step_names(row) == STEPS_LOAD
    assert (here().state, here().model, loaded()) == (State.READY, OTHER, [OTHER])
    assert server() == pid
    assert here().options["model"] == OTHER
    record = StartRecord.objects.first()
    assert record
    assert (record.kind, record.model) == (StartKind.LOAD, OTHER)
    again = change(owner_actor, OTHER, "ollama")
    run()
    assert step_names(again) == ["preflight", "commit"]


def test_streams_on_the_old_model_finish_first(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    two_models()
    client = bus.redis_client()
    client.zadd("mh:leases:ollama", {"somebody": 9_999_999_999})
    row = change(owner_actor, OTHER, "ollama")
    worker = FakeBackend("ollama", 0).run_in_thread()
    wait_for(lambda: here().state == State.DRAINING)
    assert loaded() == [OLLAMA_MODEL]
    client.zrem("mh:leases:ollama", "somebody")
    worker.join(20)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert loaded() == [OTHER]


def test_a_load_that_fails_leaves_the_old_model_serving(
    two_models: Callable[..., int], owner_actor: Actor, tmp_path: Path
) -> None:
    pid = two_models()
    row = change(owner_actor, OTHER, "ollama")
    habits("crash-load")
    run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    assert "could not load other:1b" in ended(row).error["message"]
    assert f"Ollama serves {OLLAMA_MODEL} again." in ended(row).error["message"]
    assert (here().state, here().model, loaded()) == (State.READY, OLLAMA_MODEL, [OLLAMA_MODEL])
    assert server() == pid
    assert here().options.get("model", OLLAMA_MODEL) == OLLAMA_MODEL


def test_a_server_that_dies_while_it_loads_is_started_again_with_the_old_model(
    two_models: Callable[..., int], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_models()
    row = change(owner_actor, OTHER, "ollama")
    load = OllamaEngine.load

    def die(self: Any, target: Any, model: str, **more: Any) -> None:
        if model != OTHER:
            return load(self, target, model, **more)
        (inst,) = supervisor.find(settings.MH_HOME, "ollama")
        supervisor.stop(inst, grace=0.1)
        raise httpx.ReadError("gone")

    monkeypatch.setattr(OllamaEngine, "load", die)
    run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    assert (here().state, here().model, loaded()) == (State.READY, OLLAMA_MODEL, [OLLAMA_MODEL])


def test_a_cancel_while_it_loads_keeps_the_old_model(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    pid = two_models()
    habits("load=60")
    row = change(owner_actor, OTHER, "ollama")
    worker = FakeBackend("ollama", 0).run_in_thread()
    wait_for(lambda: row.steps.filter(name="load", message__startswith="loading").exists())
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    worker.join(20)
    assert ended(row).state == OperationState.CANCELLED, ended(row).error
    assert (here().state, here().model, server()) == (State.READY, OLLAMA_MODEL, pid)
    assert loaded() == [OLLAMA_MODEL]


@pytest.mark.parametrize("at", ["drain", "load", "warm", "unload", "commit_load"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_load_whose_runner_died_is_resumed_or_undone(
    two_models: Callable[..., int],
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    cancelled: bool,
) -> None:
    pid = two_models()
    row = change(owner_actor, OTHER, "ollama")
    lose_the_runner(at, run, monkeypatch)
    if cancelled:
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    run()
    expected = OLLAMA_MODEL if cancelled else OTHER
    assert ended(row).state == ("cancelled" if cancelled else "succeeded"), ended(row).error
    assert (here().state, here().model, loaded()) == (State.READY, expected, [expected])
    assert server() == pid


def test_asked_twice_it_joins_and_asked_for_another_it_is_refused(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    two_models()
    first = change(owner_actor, OTHER, "ollama")
    assert change(owner_actor, OTHER, "ollama").pk == first.pk
    with pytest.raises(OperationConflict):
        change(owner_actor, "third:1b", "ollama")


def test_a_load_that_is_left_to_the_first_request_only_tells(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    two_models(loadOnStart=False)
    row = change(owner_actor, OTHER, "ollama")
    run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert (here().model, loaded()) == (OTHER, [])
