"""Downloads and the GPU do not wait for each other; two downloads do; a killed runner's download is gone on with."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from accounts.actors import Actor
from backends import bus, selectors, services, tasks
from backends.engines import registry
from backends.engines.base import Capabilities, Transfer
from backends.lifecycle import State
from backends.models import Lane, Operation, OperationState
from backends.observer import Observer
from backends.operations.runner import has_work, run_operations
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import ask, ended, wait_for

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


class Puller:
    """A download that goes on until it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.die = False

    def pull(self, model: str, report: Callable[[Transfer], None], cancelled: Any) -> None:
        self.asked.append(model)
        report(
            Transfer(message="pulling", completed_bytes=1_200_000_000, total_bytes=4_700_000_000)
        )
        self.begun.set()
        if self.die:
            self.die = False
            raise SystemExit
        while not self.let_go.wait(0.02):
            cancelled()
        report(Transfer(message="", completed_bytes=4_700_000_000, total_bytes=4_700_000_000))


@pytest.fixture
def puller(fake: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[Puller]:
    from mh_fake_engine import FakeEngine

    made = Puller()

    class PullingEngine(FakeEngine):
        capabilities = Capabilities(pull=True, delete=True, library_on_disk=True)

        def pull(
            self, target: Any, model: str, *, report: Any, cancelled: Any, options: Any
        ) -> None:
            made.pull(model, report, cancelled)

    engines = {"fake": PullingEngine()}
    monkeypatch.setattr(registry, "engines", lambda: engines)
    yield made
    made.let_go.set()


def pull(actor: Actor, model: str = "new-model") -> Operation:
    return services.model_pull(actor=actor, name="fake", model=model, foreground=True)


def run(lane: Lane) -> threading.Thread:
    from django.db import connections

    def work() -> None:
        try:
            run_operations(settings.MH_NODE, lane)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_an_engine_starts_and_stops_while_a_model_is_downloaded(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    backend = fake()
    row = pull(owner_actor)
    worker = run(Lane.MODELS)
    assert puller.begun.wait(10)

    assert ended(row).state == OperationState.RUNNING
    starting = ask(owner_actor)
    run_operations(settings.MH_NODE, Lane.GPU)
    assert ended(starting).state == OperationState.SUCCEEDED, ended(starting).error
    assert backend.row.state == State.READY
    stopping = ask(owner_actor, "stop")
    run_operations(settings.MH_NODE, Lane.GPU)
    assert ended(stopping).state == OperationState.SUCCEEDED
    assert backend.row.state == State.STOPPED
    assert backend.pids() == ()

    assert ended(row).state == OperationState.RUNNING, "the stop left the download alone"
    puller.let_go.set()
    worker.join(10)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error


def test_the_status_shows_the_operation_on_the_gpu_and_downloads_apart(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    fake()
    row = pull(owner_actor)
    other = pull(owner_actor, "other-model")
    worker = run(Lane.MODELS)
    assert puller.begun.wait(10)
    status = selectors.status()
    assert status["operation"] is None
    assert [(o["id"], o["model"]) for o in status["downloads"]] == [
        (str(row.pk), "new-model"), (str(other.pk), "other-model"),
    ]  # fmt: skip
    first = status["downloads"][0]
    assert first["steps"][-1]["message"].startswith("1.2 GB of 4.7 GB")
    assert first["progress"] == pytest.approx(0.255, abs=0.001)
    starting = ask(owner_actor)
    current = selectors.status()["operation"]
    assert current is not None
    assert current["id"] == str(starting.pk)
    puller.let_go.set()
    worker.join(10)
    assert puller.asked == ["new-model", "other-model"], "one after the other"
    assert ended(row).steps.get().message == "4.7 GB"
    assert ended(row).progress == 1.0


def test_an_engine_is_watched_while_a_model_is_downloaded_for_it(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    fake()
    pull(owner_actor)
    assert Observer()._busy() == set()
    ask(owner_actor)
    assert Observer()._busy() == {"fake"}


def test_one_pass_takes_both_lanes(fake: Make, puller: Puller, owner_actor: Actor) -> None:
    backend = fake()
    puller.let_go.set()
    rows = [pull(owner_actor), ask(owner_actor)]
    assert all(has_work(settings.MH_NODE, lane) for lane in Lane)
    assert run_operations(settings.MH_NODE) == 2
    assert [ended(row).state for row in rows] == [OperationState.SUCCEEDED] * 2
    assert backend.row.state == State.READY


def test_asking_twice_for_a_model_joins_and_a_cancelled_one_is_not_joined(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    fake()
    first = pull(owner_actor)
    assert pull(owner_actor).pk == first.pk
    services.operation_cancel(actor=owner_actor, operation_id=str(first.pk))
    assert pull(owner_actor).pk != first.pk


def test_a_cancel_ends_a_download_under_way(fake: Make, puller: Puller, owner_actor: Actor) -> None:
    fake()
    row = pull(owner_actor)
    worker = run(Lane.MODELS)
    assert puller.begun.wait(10)
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    worker.join(10)
    assert not worker.is_alive()
    assert ended(row).state == OperationState.CANCELLED


def test_a_download_whose_runner_was_killed_is_gone_on_with(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    fake()
    row = pull(owner_actor)
    puller.die = True
    with pytest.raises(SystemExit):
        run_operations(settings.MH_NODE, Lane.MODELS)
    assert ended(row).state == OperationState.RUNNING
    assert not has_work(settings.MH_NODE, Lane.MODELS), "its runner may still live"
    starting = ask(owner_actor)
    run_operations(settings.MH_NODE, Lane.GPU)
    assert ended(starting).state == OperationState.SUCCEEDED, "nobody waits for it"

    Operation.objects.filter(pk=row.pk).update(heartbeat_at=selectors.now() - timedelta(seconds=60))
    puller.let_go.set()
    run_operations(settings.MH_NODE, Lane.MODELS)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert puller.asked == ["new-model"] * 2


def test_a_worker_takes_a_download_and_is_free_at_once(
    fake: Make, puller: Puller, owner_actor: Actor
) -> None:
    fake()
    row = pull(owner_actor)
    bus.worker_beat(settings.MH_NODE)
    tasks.run_operations_task(settings.MH_NODE)
    assert puller.begun.wait(10)
    assert ended(row).state == OperationState.RUNNING
    puller.let_go.set()
    wait_for(lambda: ended(row).state == OperationState.SUCCEEDED)
