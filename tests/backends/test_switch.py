"""The GPU moves from one engine to another: on real processes, forth and back, and when things go wrong."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.errors import NotAllowed
from accounts.models import User
from audit.models import Event
from backends import bus, ports, selectors, services, supervisor
from backends.errors import InvalidOptions, UnknownBackend
from backends.lifecycle import State
from backends.models import Operation, OperationState
from backends.operations.steps import stopping
from router.schemas import ChatRequest
from router.services import chat_complete
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import ended, wait_for

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]
Pair = tuple[FakeBackend, FakeBackend]


def switch(actor: Actor, name: str = "fake2", **arguments: Any) -> Operation:
    return services.backend_switch(actor=actor, name=name, foreground=True, **arguments)


@pytest.fixture
def two(fake: Make, owner_actor: Actor) -> Callable[..., Pair]:
    """``fake`` runs; ``fake2``, with the options given, does not."""

    def make(**options: Any) -> Pair:
        old, new = fake(), fake("fake2", **options)
        services.backend_start(actor=owner_actor, name="fake", model="other-model", foreground=True)
        old.run()
        assert old.row.state == State.READY
        return old, new

    return make


def serves(backend: FakeBackend, model: str) -> None:
    assert (backend.row.state, backend.row.model) == (State.READY, model)
    models = httpx.get(f"http://127.0.0.1:{backend.port}/v1/models", trust_env=False).json()
    assert models["data"][0]["id"] == model
    assert len(supervisor.find(settings.MH_HOME, backend.name)) == 1


def is_gone(backend: FakeBackend, state: State = State.STOPPED) -> None:
    assert backend.row.state == state
    assert backend.pids() == ()
    assert ports.port_holder(backend.port, "127.0.0.1") is None


def step_names(row: Operation) -> list[str]:
    return [step.name for step in ended(row).steps.all()]


def chat(actor: Actor) -> dict[str, Any]:
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    return dict(async_to_sync(chat_complete)(actor=actor, request=request))


def test_forth_and_back(two: Callable[..., Pair], owner_actor: Actor) -> None:
    old, new = two()
    row = switch(owner_actor)
    assert row.from_backend == "fake"
    new.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert step_names(row) == [
        "preflight",
        "hold",
        "drain",
        "release",
        "start",
        "warm",
        "commit",
        "resume",
    ]
    serves(new, "fake-model")
    is_gone(old)
    assert selectors.active_backend() == new.row
    assert chat(owner_actor)["backend"] == "fake2"

    back = switch(owner_actor, "fake", model="other-model")
    old.run()
    assert ended(back).state == OperationState.SUCCEEDED, ended(back).error
    assert ended(back).from_backend == "fake2"
    serves(old, "other-model")
    is_gone(new)
    assert selectors.active_backend() == old.row


def test_switching_to_what_runs_changes_nothing(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, _ = two()
    before = old.pids()
    row = switch(owner_actor, "fake")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert ended(row).from_backend == ""
    assert old.pids() == before


def test_with_nothing_running_a_switch_is_a_start(fake: Make, owner_actor: Actor) -> None:
    fake()
    new = fake("fake2")
    row = switch(owner_actor)
    new.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert ended(row).from_backend == ""
    serves(new, "fake-model")


def test_a_switch_to_another_model_of_the_same_backend_replaces_it(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, _ = two()
    row = switch(owner_actor, "fake", model="fake-model")
    old.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert ended(row).from_backend == "fake"
    serves(old, "fake-model")


def test_both_may_have_the_same_port(fake: Make, owner_actor: Actor) -> None:
    old = fake()
    new = fake("fake2", port=old.port)
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    old.run()
    row = switch(owner_actor)
    new.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    serves(new, "fake-model")
    assert old.pids() == ()


def test_what_is_to_stop_is_settled_when_the_switch_begins(fake: Make, owner_actor: Actor) -> None:
    old, new = fake(), fake("fake2")
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    row = switch(owner_actor)
    assert row.from_backend == ""
    new.run()
    assert ended(row).from_backend == "fake"
    serves(new, "fake-model")
    is_gone(old)


def test_a_wrong_model_is_found_before_anything_is_touched(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = two()
    before = old.pids()
    row = switch(owner_actor, model="no-such-model")
    new.run()
    assert ended(row).state == OperationState.FAILED
    assert ended(row).error["code"] == "model_not_found"
    assert step_names(row) == ["preflight"]
    assert old.pids() == before
    serves(old, "other-model")
    is_gone(new)
    assert chat(owner_actor)["backend"] == "fake"


def test_a_start_that_fails_is_rolled_back_to_the_same_model_and_options(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = two(arguments="--behaviour exit=error")
    # What is configured meanwhile is for the next start; what is restored is what ran.
    services.backend_configure(actor=owner_actor, name="fake", options={"model": "fake-model"})
    row = switch(owner_actor)
    new.run()
    row = ended(row)
    assert row.state == OperationState.ROLLED_BACK
    assert "Other fake ended while it was starting" in row.error["message"]
    assert row.error["message"].endswith("Fake engine serves other-model again.")
    assert "Error" in row.error["detail"]
    assert step_names(row)[-1] == "rollback"
    serves(old, "other-model")
    is_gone(new, State.FAILED)
    assert new.row.failure
    assert selectors.active_backend() == old.row
    assert old.row.options["model"] == "fake-model"
    assert chat(owner_actor)["backend"] == "fake"
    assert Event.objects.filter(event="operation.rolled_back").exists()


def test_a_model_that_fails_is_rolled_back_on_the_same_backend(
    two: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    old, _ = two()
    warm_up = FakeEngine.warm_up

    def fail(self: Any, target: Any, **more: Any) -> None:
        if target.served_model == "fake-model":
            raise httpx.ReadError("gone")
        warm_up(self, target, **more)

    monkeypatch.setattr(FakeEngine, "warm_up", fail)
    row = switch(owner_actor, "fake", model="fake-model")
    old.run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    serves(old, "other-model")


def test_when_the_old_one_does_not_start_again_either_both_are_told(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = two(arguments="--behaviour exit=error")
    row = switch(owner_actor)
    old_row = old.row
    old_row.started_options = {**old_row.options, "arguments": "--behaviour exit=error"}
    old_row.save()
    new.run()
    assert ended(row).state == OperationState.FAILED
    assert "What ran before (fake) does not run again" in ended(row).error["message"]
    is_gone(old, State.FAILED)
    is_gone(new, State.FAILED)


def test_a_cancel_during_the_start_brings_the_old_one_back(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = two(arguments="--start-delay 60")
    row = switch(owner_actor)
    worker = new.run_in_thread()
    wait_for(new.pids)
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    worker.join(20)
    assert ended(row).state == OperationState.CANCELLED
    assert "serves other-model again" in ended(row).error["message"]
    serves(old, "other-model")
    is_gone(new)
    assert chat(owner_actor)["backend"] == "fake"


def test_a_cancel_while_requests_finish_leaves_the_old_one_serving(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    old, new = two()
    services.backend_configure(actor=owner_actor, name="fake", options={"drainSeconds": 60})
    before = old.pids()
    bus.redis_client().zadd("mh:leases:fake", {"somebody": time.time() + 60})
    row = switch(owner_actor)
    worker = new.run_in_thread()
    wait_for(lambda: old.row.state == State.DRAINING)
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    worker.join(20)
    assert ended(row).state == OperationState.CANCELLED
    assert old.pids() == before
    serves(old, "other-model")
    assert chat(owner_actor)["backend"] == "fake"


def test_a_cancel_just_after_the_release_starts_the_old_one_again(
    two: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = two()
    row = switch(owner_actor)
    stop = stopping.stop_instances

    def stop_and_cancel(*arguments: Any) -> None:
        stop(*arguments)
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))

    monkeypatch.setattr(stopping, "stop_instances", stop_and_cancel)
    new.run()
    assert ended(row).state == OperationState.CANCELLED, ended(row).error
    serves(old, "other-model")
    is_gone(new)


@pytest.mark.parametrize("at", ["drain", "release", "start", "warm", "commit"])
def test_a_switch_whose_runner_died_is_resumed(
    two: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    old, new = two()
    row = switch(owner_actor)
    lose_the_runner_at(at, new, monkeypatch)
    assert ended(row).state == OperationState.RUNNING
    new.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert ended(row).from_backend == "fake"
    serves(new, "fake-model")
    is_gone(old)
    assert Event.objects.filter(event="operation.resumed").exists()


@pytest.mark.parametrize("at", ["drain", "release", "start"])
def test_a_switch_whose_runner_died_can_be_cancelled_and_is_rolled_back(
    two: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    old, new = two()
    row = switch(owner_actor)
    lose_the_runner_at(at, new, monkeypatch)
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    new.run()
    assert ended(row).state == OperationState.CANCELLED, ended(row).error
    serves(old, "other-model")
    is_gone(new)


def test_a_roll_back_whose_runner_died_is_gone_on_with(
    two: Callable[..., Pair], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = two(arguments="--behaviour exit=error")
    row = switch(owner_actor)
    lose_the_runner_at("restore", new, monkeypatch)
    assert step_names(row)[-1] == "rollback"
    new.run()
    assert ended(row).state == OperationState.ROLLED_BACK
    assert "Other fake ended while it was starting" in ended(row).error["message"]
    assert step_names(row).count("start") == 1
    serves(old, "other-model")
    is_gone(new, State.FAILED)


def lose_the_runner_at(at: str, new: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_runner(at, new.run, monkeypatch)


def lose_the_runner(at: str, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the middle of a step; a runner that is killed writes nothing more."""
    inner = {
        "drain": "stopping._drain",
        "release": "stopping.stop_instances",
        "start": "starting._wait_until_ready",
        "warm": "starting._report_warming",
        "commit": "starting._version",
        "restore": "undoing._start_again",
        "load": "loading._watch",
        "unload": "loading._unload",
        "commit_load": "starting._keep_record",
        "park": "parking._memory_is_back",
        "unpark": "parking._watch",
    }[at]

    def die(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(f"backends.operations.steps.{inner}", die)
        with pytest.raises(SystemExit):
            run()
    Operation.objects.filter(state=OperationState.RUNNING).update(
        heartbeat_at=selectors.now() - timedelta(seconds=60)
    )


def test_asking_twice_joins_and_an_unknown_name_is_told(
    two: Callable[..., Pair], owner_actor: Actor
) -> None:
    two()
    assert switch(owner_actor).pk == switch(owner_actor).pk
    with pytest.raises(UnknownBackend, match="nope"):
        switch(owner_actor, "nope")
    with pytest.raises(InvalidOptions):
        switch(owner_actor, "fake2", model=5)  # type: ignore[arg-type]


def test_whoever_owns_only_the_new_one_may_not_stop_the_old_one(
    two: Callable[..., Pair], standard: User
) -> None:
    _, new = two()
    row = new.row
    row.owner = standard
    row.save()
    with pytest.raises(NotAllowed):
        switch(Actor(user=standard, surface="rest"))
    assert Operation.objects.count() == 1


def test_a_switch_by_rest_waits_for_its_end(two: Callable[..., Pair], owner: User) -> None:
    _, new = two()
    bus.worker_beat(settings.MH_NODE)
    client = Client()
    client.force_login(owner)
    url = "/api/llm-backend/switch"
    wrong = client.post(url, {"backend": "fake2", "nonsense": 1}, "application/json")
    assert wrong.status_code == 422
    assert client.post(url, {"backend": "nope"}, "application/json").status_code == 404
    answer = client.post(url, {"backend": "fake2"}, "application/json")
    assert answer.status_code == 202
    worker: threading.Thread = new.run_in_thread()
    answer = client.post(f"{url}?wait=30", {"backend": "fake2"}, "application/json")
    worker.join(20)
    assert answer.status_code == 200, answer.json()
    body = answer.json()
    assert (body["kind"], body["backend"], body["from_backend"]) == ("switch", "fake2", "fake")
    assert body["state"] == "succeeded"
