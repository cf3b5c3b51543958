"""Operations on a real process: asked for, run, joined, cancelled, failed, resumed."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.conf import settings

from accounts.actors import Actor
from accounts.errors import NotAllowed, NotAuthenticated
from accounts.models import User
from audit.models import Event, Outcome
from backends import bus, leases, ports, selectors, services, supervisor
from backends.errors import InvalidOptions, OperationConflict, UnknownBackend, WorkerUnavailable
from backends.lifecycle import State
from backends.models import Operation, OperationState
from tests.backends.conftest import FakeBackend
from tests.backends.faults.table import fault

pytestmark = pytest.mark.process


def ask(actor: Actor, what: str = "start", **arguments: Any) -> Operation:
    return getattr(services, f"backend_{what}")(
        actor=actor, name="fake", foreground=True, **arguments
    )


def ended(row: Operation) -> Operation:
    return selectors.operation_get(str(row.pk))


def wait_for(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value


def test_a_start_makes_it_ready_and_a_stop_leaves_nothing(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    started = ask(owner_actor)
    backend.run()

    assert ended(started).state == OperationState.SUCCEEDED, ended(started).error
    assert [step.name for step in ended(started).steps.all()] == [
        "preflight", "start", "warm", "commit", "resume",
    ]  # fmt: skip
    assert (backend.row.state, backend.row.model) == (State.READY, "fake-model")
    assert backend.row.version.startswith("0.32")
    assert httpx.get(f"http://127.0.0.1:{backend.port}/health").status_code == 200
    assert selectors.active_backend() == backend.row
    pids = backend.pids()
    assert pids

    stopped = ask(owner_actor, "stop")
    backend.run()
    assert ended(stopped).state == OperationState.SUCCEEDED, ended(stopped).error
    assert backend.row.state == State.STOPPED
    assert backend.pids() == ()
    assert ports.port_holder(backend.port, "127.0.0.1") is None


def test_every_step_is_in_the_audit_with_who_asked(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    ask(owner_actor)
    backend.run()
    events = list(Event.objects.filter(request_id="test-request"))
    names = [event.event for event in events]
    for expected in (
        "operation.requested", "operation.started", "operation.step_started",
        "operation.step_done", "backend.starting", "backend.ready", "operation.succeeded",
    ):  # fmt: skip
        assert expected in names
    assert {event.actor_name for event in events} == {"olga"}
    assert {event.source_address for event in events} == {"127.0.0.1"}


@fault(37)
def test_a_start_that_fails_shows_the_engines_reason_and_leaves_nothing(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(arguments="--behaviour exit=error")
    row = ask(owner_actor)
    backend.run()
    row = ended(row)
    assert row.state == OperationState.FAILED
    assert row.error["code"] == "start_failed"
    assert "Error" in row.error["detail"]
    assert backend.row.state == State.FAILED
    assert backend.row.failure
    assert backend.row.failure_detail
    assert backend.pids() == ()
    assert selectors.backend_log("fake"), "the log is kept"
    event = Event.objects.get(event="operation.failed")
    assert (event.outcome, event.actor_name) == ("failure", "olga")
    assert "ended while it was starting" in event.message, "with the reason"


def test_after_a_failed_start_the_next_one_works(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(arguments="--behaviour exit=error")
    ask(owner_actor)
    backend.run()
    row = ask(owner_actor, options={"arguments": ""})
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert backend.row.options["arguments"] == "", "what worked is kept"


def test_a_missing_model_is_found_before_anything_is_touched(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    row = ask(owner_actor, model="no-such-model")
    backend.run()
    row = ended(row)
    assert row.state == OperationState.FAILED
    assert row.error["code"] == "model_not_found"
    assert "fake-model" in row.error["message"]
    assert backend.row.state == State.STOPPED
    assert supervisor.find(settings.MH_HOME, "fake") == []


def test_a_strangers_port_is_named_before_anything_is_touched(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", backend.port))
        stranger.listen()
        row = ask(owner_actor)
        backend.run()
    row = ended(row)
    assert row.error["code"] == "port_in_use"
    assert str(backend.port) in row.error["message"]
    assert backend.row.state == State.STOPPED


def test_starting_what_runs_changes_nothing(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    ask(owner_actor)
    backend.run()
    before = backend.pids()
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert backend.pids() == before


def test_starting_another_model_while_one_runs_is_refused_and_touches_nothing(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    ask(owner_actor)
    backend.run()
    before = backend.pids()
    row = ask(owner_actor, model="other-model")
    backend.run()
    assert ended(row).error["code"] == "already_running"
    assert backend.pids() == before
    assert backend.row.state == State.READY


def test_a_restart_with_another_model_serves_it(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    ask(owner_actor)
    backend.run()
    row = ask(owner_actor, "restart", model="other-model")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert backend.row.model == "other-model"


def test_asking_twice_joins(fake: Callable[..., FakeBackend], owner_actor: Actor) -> None:
    fake()
    assert ask(owner_actor).pk == ask(owner_actor).pk
    assert Operation.objects.count() == 1


def test_asking_for_something_else_meanwhile_is_a_conflict_that_says_what_to_do(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    fake()
    first = ask(owner_actor)
    with pytest.raises(OperationConflict, match=str(first.pk)):
        ask(owner_actor, model="other-model")


def test_a_stop_during_a_start_cancels_it_and_leaves_nothing(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(arguments="--start-delay 30")
    starting = ask(owner_actor)
    worker = backend.run_in_thread()
    wait_for(backend.pids)
    stopping = ask(owner_actor, "stop")
    worker.join(20)
    backend.run()
    assert ended(starting).state == OperationState.CANCELLED
    assert ended(stopping).state == OperationState.SUCCEEDED
    assert backend.row.state == State.STOPPED
    assert backend.pids() == ()


def test_cancelling_what_waits_ends_it_at_once(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    fake()
    row = services.operation_cancel(actor=owner_actor, operation_id=str(ask(owner_actor).pk))
    assert row.state == OperationState.CANCELLED


def test_an_engine_that_dies_while_starting_is_noticed_at_once(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(arguments="--start-delay 60")
    row = ask(owner_actor)
    worker = backend.run_in_thread()
    inst = wait_for(lambda: selectors.backend_instance(backend.row))
    pid = wait_for(lambda: supervisor.inspect(inst).engine_pid)
    os.kill(pid, signal.SIGKILL)
    worker.join(8)
    assert not worker.is_alive()
    assert ended(row).state == OperationState.FAILED
    assert "signal 9" in ended(row).error["message"]


def test_a_start_that_takes_too_long_is_ended(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(arguments="--start-delay 60", startTimeoutSeconds=1)
    row = ask(owner_actor)
    backend.run()
    assert "startTimeoutSeconds" in ended(row).error["message"]
    assert backend.pids() == ()


def test_a_start_whose_runner_died_is_resumed_with_the_same_process(
    fake: Callable[..., FakeBackend], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = fake(arguments="--start-delay 2")
    row = ask(owner_actor)
    # A runner that is killed writes nothing more: as if lost the moment the engine is spawned.
    gone = threading.Event()
    monkeypatch.setattr(
        "backends.operations.steps.starting._wait_until_ready", lambda *_: (gone.set(), _die())
    )
    with pytest.raises(SystemExit):
        backend.run()
    assert gone.is_set()
    monkeypatch.undo()
    pids = backend.pids()
    assert ended(row).state == OperationState.RUNNING
    Operation.objects.update(heartbeat_at=selectors.now() - timedelta(seconds=60))
    monkeypatch.setattr("backends.operations.plans.PLANS", _plans())
    _with_fake_engine(monkeypatch)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert set(pids) <= set(backend.pids())
    assert Event.objects.filter(event="operation.resumed").exists()


def _die() -> None:
    raise SystemExit


def _plans() -> Any:
    from backends.operations import plans

    return plans.PLANS


def _with_fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from mh_fake_engine import FakeEngine

    from backends.engines import registry

    engines = {"fake": FakeEngine()}
    monkeypatch.setattr(registry, "engines", lambda: engines)


def test_a_fresh_heartbeat_is_respected(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    row = ask(owner_actor)
    Operation.objects.update(
        state=OperationState.RUNNING, runner="somebody", heartbeat_at=selectors.now()
    )
    backend.run()
    assert ended(row).runner == "somebody"


def test_a_stop_waits_for_requests_in_flight_but_not_for_ever(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake(drainSeconds=1)
    ask(owner_actor)
    backend.run()
    bus.redis_client().zadd("mh:leases:fake", {"somebody": time.time() + 60})
    began = time.monotonic()
    row = ask(owner_actor, "stop")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert 1.0 <= time.monotonic() - began < 10
    assert leases.in_flight("fake") == 1, "it is the holder's to return"


def test_standard_users_may_not_and_it_is_audited(
    fake: Callable[..., FakeBackend], standard: User
) -> None:
    fake()
    with pytest.raises(NotAllowed):
        ask(Actor(user=standard, surface="rest"))
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor_name="stan").exists()
    assert not Operation.objects.exists()


def test_nobody_may_not(fake: Callable[..., FakeBackend]) -> None:
    fake()
    with pytest.raises(NotAuthenticated):
        ask(Actor(user=None, surface="rest"))


def test_the_owner_of_a_backend_may_operate_it(
    fake: Callable[..., FakeBackend], standard: User
) -> None:
    backend = fake()
    row = backend.row
    row.owner = standard
    row.save()
    assert ask(Actor(user=standard, surface="rest")).state == OperationState.QUEUED


def test_wrong_options_are_named_and_nothing_is_kept(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    fake()
    with pytest.raises(InvalidOptions, match="port") as caught:
        ask(owner_actor, options={"port": 99999999})
    assert caught.value.param == "options.port"
    with pytest.raises(InvalidOptions, match="nonsense"):
        ask(owner_actor, options={"nonsense": 1})
    assert not Operation.objects.exists()


def test_an_unknown_backend_is_named_with_those_there_are(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    fake()
    with pytest.raises(UnknownBackend, match="fake"):
        services.backend_start(actor=owner_actor, name="nope")


def test_without_a_worker_it_says_so(fake: Callable[..., FakeBackend], owner_actor: Actor) -> None:
    fake()
    with pytest.raises(WorkerUnavailable, match="mh up"):
        services.backend_start(actor=owner_actor, name="fake")
    assert not Operation.objects.exists()


@fault(38)
def test_secrets_are_kept_encrypted_and_never_shown(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    backend = fake()
    services.backend_configure(actor=owner_actor, name="fake", options={"apiKey": "s3cret-key"})
    row = backend.row
    assert "s3cret" not in row.secrets + str(row.options)
    config = selectors.backend_config(row)
    assert config["secrets"] == {"apiKey": True}
    assert "s3cret" not in str(config)
    assert "s3cret" not in str(list(Event.objects.values()))
    with pytest.raises(InvalidOptions, match="secret"):
        ask(owner_actor, options={"apiKey": "other"})


def test_a_secret_reaches_the_engine(fake: Callable[..., FakeBackend], owner_actor: Actor) -> None:
    backend = fake()
    services.backend_configure(actor=owner_actor, name="fake", options={"apiKey": "s3cret-key"})
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    refused = httpx.get(f"http://127.0.0.1:{backend.port}/v1/models")
    assert refused.status_code == 401
    assert selectors.serving_target("fake").target.api_key == "s3cret-key"
    for inst in supervisor.find(settings.MH_HOME, "fake"):
        for file in inst.folder.rglob("*"):
            if file.is_file():
                assert b"s3cret" not in file.read_bytes(), file
