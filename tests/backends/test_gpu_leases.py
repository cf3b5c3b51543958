"""GPU leases: who may have which GPU, and that a runner which lost its operation cannot spawn."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from accounts.actors import Actor
from audit.models import Event
from backends import gpu_holders, selectors, services, supervisor
from backends.errors import OperationLost, PreflightFailed, StopFailed
from backends.lifecycle import State
from backends.models import Backend, GpuLease, Operation, OperationState
from backends.observer import Observer
from backends.operations.context import Context
from backends.operations.steps import starting, stopping, undoing
from tests.backends.conftest import FakeBackend
from tests.backends.nvml import GIB, Nvml

Make = Callable[..., FakeBackend]
MakeNvml = Callable[..., Nvml]
SYSTEM = Actor.system()


@pytest.fixture
def backend(fake: Make) -> Callable[..., Backend]:
    """Rows in a state, with no process."""

    def make(name: str = "fake", state: State = State.READY, **options: Any) -> Backend:
        row = fake(name, **options).row
        Backend.objects.filter(name=name).update(state=state)
        row.state = state
        return row

    return make


def take(name: str = "fake", *gpus: int, **more: Any) -> int:
    return services.gpu_lease_take(actor=SYSTEM, backend=name, gpus=gpus, **more)


def holders() -> dict[str, list[str]]:
    return gpu_holders.gpu_holders(settings.MH_NODE)


# Who holds what.


def test_a_lease_is_on_each_gpu_by_its_uuid_and_every_take_counts_up(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    nvml(2)
    backend()
    assert [take("fake", 0, 1), take("fake", 1)] == [1, 2]
    assert holders() == {"GPU-fake-1": ["fake"]}, "what is not wanted any more is given back"
    services.gpu_lease_release(actor=SYSTEM, backend="fake")
    assert holders() == {}
    assert take("fake", 0) == 3, "the number never goes back"


def test_takes_and_releases_are_in_the_audit(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    nvml()
    backend()
    take("fake", 0)
    services.gpu_lease_release(actor=SYSTEM, backend="fake")
    services.gpu_lease_release(actor=SYSTEM, backend="fake")
    events = list(Event.objects.filter(event__startswith="gpu.").order_by("pk"))
    assert [event.event for event in events] == ["gpu.lease_taken", "gpu.lease_released"]
    assert {event.target_id for event in events} == {"fake"}
    assert events[0].after == {"gpus": ["GPU-fake-0"], "fencing": 1}


def test_a_gpu_in_use_is_refused_with_who_holds_it_and_what_to_do(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    nvml()
    backend(), backend("fake2", State.STOPPED)
    take("fake", 0)
    with pytest.raises(PreflightFailed) as caught:
        take("fake2", 0, 1)
    assert caught.value.code == "gpu_in_use"
    assert (
        caught.value.message == "Fake engine holds GPU 0. Switch instead: mh backend switch fake2"
    )
    assert holders() == {"GPU-fake-0": ["fake"]}, "half of it was not taken"
    take("fake2", 1)


@pytest.mark.parametrize(
    ("one", "other", "allowed"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_gpu_is_shared_where_both_say_so(
    backend: Callable[..., Backend], nvml: MakeNvml, one: bool, other: bool, allowed: bool
) -> None:
    nvml()
    backend(shareGpu=one), backend("fake2", shareGpu=other)
    take("fake", 0)
    if allowed:
        take("fake2", 0, shares=other)
        assert holders() == {"GPU-fake-0": ["fake", "fake2"]}
        services.gpu_lease_release(actor=SYSTEM, backend="fake")
        assert holders() == {"GPU-fake-0": ["fake2"]}
    else:
        with pytest.raises(PreflightFailed):
            take("fake2", 0, shares=other)


@pytest.mark.parametrize("state", [State.STOPPED, State.FAILED, State.PARKED])
def test_a_holder_that_does_not_live_or_is_parked_is_dropped(
    backend: Callable[..., Backend], nvml: MakeNvml, state: State
) -> None:
    nvml()
    backend("fake", state), backend("fake2")
    GpuLease.objects.create(
        node=settings.MH_NODE, gpu="GPU-fake-0", holders=["fake", "never-was"], fencing=7
    )
    assert take("fake2", 0) == 8
    assert holders() == {"GPU-fake-0": ["fake2"]}


def test_the_memory_of_the_machine_is_everybodys(backend: Callable[..., Backend]) -> None:
    backend(), backend("fake2")
    take("fake")
    take("fake2")
    assert holders() == {gpu_holders.HOST: ["fake", "fake2"]}


def test_an_engine_on_the_cpu_and_one_on_the_gpu_do_not_meet(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    nvml()
    backend(), backend("fake2")
    take("fake", 0)
    take("fake2")
    assert holders() == {"GPU-fake-0": ["fake"], gpu_holders.HOST: ["fake2"]}


def test_a_gpu_that_cannot_be_told_from_a_leased_one_counts_as_it(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    cards = nvml(2)
    backend(), backend("fake2")
    take("fake", 0)
    cards.say(errors={"nvmlDeviceGetUUID": 999})
    for number in (0, 1):
        with pytest.raises(PreflightFailed):
            take("fake2", number)
    cards.say(errors={})
    take("fake2", 1)


def test_a_gpu_leased_by_its_number_is_known_when_its_uuid_is_told(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    cards = nvml(2, errors={"nvmlDeviceGetUUID": 999})
    backend(), backend("fake2")
    take("fake", 1)
    cards.cards(2)
    assert gpu_holders.gpu_in_words(next(iter(holders()))) == "GPU 1"
    take("fake2", 0)
    with pytest.raises(PreflightFailed, match="GPU 1"):
        take("fake2", 1)


# Fencing.


def test_an_older_number_is_refused(backend: Callable[..., Backend], nvml: MakeNvml) -> None:
    nvml()
    backend()
    old, new = take("fake", 0), take("fake", 0)
    services.gpu_lease_check(backend="fake", fencing=new)
    with pytest.raises(OperationLost):
        services.gpu_lease_check(backend="fake", fencing=old)
    services.gpu_lease_release(actor=SYSTEM, backend="fake")
    with pytest.raises(OperationLost):
        services.gpu_lease_check(backend="fake", fencing=new)


def test_only_the_runner_of_an_operation_takes_and_gives_back(
    fake: Make, owner_actor: Actor
) -> None:
    fake()
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    services.operation_claim(row, runner="me", stale_before=selectors.now())
    take("fake", operation=row, runner="me")
    for act in (
        lambda: take("fake", operation=row, runner="somebody-before"),
        lambda: services.gpu_lease_release(
            actor=SYSTEM, backend="fake", operation=row, runner="somebody-before"
        ),
    ):
        with pytest.raises(OperationLost):
            act()
    assert GpuLease.objects.get().fencing == 1
    assert holders() == {gpu_holders.HOST: ["fake"]}


@pytest.fixture
def started(fake: Make, owner_actor: Actor) -> tuple[FakeBackend, Context]:
    """A start whose runner has claimed it, and then stalled before its step ``start``."""
    made = fake()
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    services.operation_claim(row, runner="old", stale_before=selectors.now())
    row = selectors.operation_get(str(row.pk))
    services.step_begin(row, "start", runner="old")
    return made, Context.of(row, "old")


def take_over(backend: FakeBackend) -> None:
    """Have the next runner claim the operation, and finish it."""
    Operation.objects.filter(state=OperationState.RUNNING).update(
        heartbeat_at=selectors.now() - timedelta(seconds=60)
    )
    backend.run()
    assert backend.row.state == State.READY


@pytest.mark.process
@pytest.mark.parametrize("held_up_at", ["new_instance", "spawn"])
def test_a_runner_that_lost_its_operation_leaves_one_engine_the_next_ones(
    started: tuple[FakeBackend, Context], monkeypatch: pytest.MonkeyPatch, held_up_at: str
) -> None:
    backend, old = started
    real = getattr(supervisor, held_up_at)

    def stall(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(supervisor, held_up_at, real)
        take_over(backend)
        return real(*arguments, **more)

    monkeypatch.setattr(supervisor, held_up_at, stall)
    with pytest.raises(OperationLost):
        starting.start(old)
    found = supervisor.find(settings.MH_HOME, "fake")
    assert [inst.instance_id for inst in found] == [backend.row.instance_id]
    assert backend.row.state == State.READY
    assert GpuLease.objects.get().fencing == 2


@pytest.mark.process
def test_a_runner_that_lost_its_operation_does_not_stop_what_the_next_one_started(
    started: tuple[FakeBackend, Context],
) -> None:
    backend, old = started
    take_over(backend)
    before = backend.pids()
    for act in (
        lambda: stopping.release_one(old),
        lambda: starting.start(old),
        lambda: undoing.undo_start(old, failure="lost", detail="", cancelled=False),
    ):
        Backend.objects.filter(name="fake").update(state=State.STARTING)
        with pytest.raises(OperationLost):
            act()
        assert backend.pids() == before


# In operations, on real processes.


def run(backend: FakeBackend, actor: Actor, what: str, **more: Any) -> Operation:
    row = getattr(services, f"backend_{what}")(
        actor=actor, name=backend.name, foreground=True, **more
    )
    backend.run()
    return selectors.operation_get(str(row.pk))


@pytest.mark.process
def test_a_start_is_refused_before_anything_is_touched_and_a_switch_moves_the_lease(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    nvml(2).use("fake", gpu=[0, 1], memory=GIB)
    old, new = fake(gpus=(0, 1)), fake("fake2", gpus=(1,))
    run(old, owner_actor, "start")
    assert holders() == {"GPU-fake-0": ["fake"], "GPU-fake-1": ["fake"]}

    refused = run(new, owner_actor, "start")
    assert refused.state == OperationState.FAILED
    assert refused.error == {
        "message": "Fake engine holds GPU 1. Switch instead: mh backend switch fake2",
        "code": "gpu_in_use",
        "detail": "",
    }
    assert new.row.state == State.STOPPED
    assert selectors.operation_payload(refused)["step"] == "preflight"

    assert run(new, owner_actor, "switch").state == OperationState.SUCCEEDED
    assert holders() == {"GPU-fake-1": ["fake2"]}
    assert run(new, owner_actor, "stop").state == OperationState.SUCCEEDED
    assert holders() == {}


@pytest.mark.process
def test_on_different_gpus_and_shared_on_one_they_run_side_by_side(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    nvml(2)
    one, other = fake(gpus=(0,), shareGpu=True), fake("fake2", gpus=(1,), shareGpu=True)
    run(one, owner_actor, "start")
    assert run(other, owner_actor, "start").state == OperationState.SUCCEEDED
    moved = run(other, owner_actor, "restart", options={"gpus": [0]})
    assert moved.state == OperationState.SUCCEEDED, moved.error
    assert holders() == {"GPU-fake-0": ["fake", "fake2"]}


@pytest.mark.process
def test_a_start_that_fails_gives_the_lease_back(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    nvml().use("fake")
    backend = fake(gpus=(0,), arguments="--behaviour exit=error")
    assert run(backend, owner_actor, "start").state == OperationState.FAILED
    assert holders() == {}
    assert Event.objects.filter(event="gpu.lease_released").count() == 1


@pytest.mark.process
def test_what_the_observer_clears_away_holds_no_lease(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    nvml()
    backend = fake(gpus=(0,))
    run(backend, owner_actor, "start")
    observer = Observer()
    observer.look()
    (card, _) = selectors.status()["gpus"]
    assert card["holders"] == ["fake"]
    inst = selectors.backend_instance(backend.row)
    assert inst
    supervisor.stop(inst, grace=0)
    deadline = time.monotonic() + 10
    while backend.row.state != State.FAILED:
        assert time.monotonic() < deadline
        observer.look()
    assert holders() == {}


@pytest.mark.process
def test_an_engine_that_failed_to_stop_keeps_its_gpu_and_is_named_with_its_pids(
    fake: Make, owner_actor: Actor, nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml()
    old, new = fake(gpus=(0,)), fake("fake2", gpus=(0,))
    run(old, owner_actor, "start")

    def stuck(*_: Any, **__: Any) -> None:
        msg = "fake is not stopped: these processes cannot be ended."
        raise StopFailed(msg)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "stop", stuck)
        assert run(old, owner_actor, "stop").state == OperationState.FAILED
    assert old.row.state == State.FAILED
    refused = run(new, owner_actor, "start")
    assert refused.error
    assert refused.error["code"] == "gpu_in_use"
    assert all(str(pid) in refused.error["message"] for pid in old.pids())
    assert "mh backend stop fake" in refused.error["message"]
    assert run(old, owner_actor, "stop").state == OperationState.SUCCEEDED
    assert run(new, owner_actor, "start").state == OperationState.SUCCEEDED


def test_many_at_once_never_hold_one_gpu_together(
    backend: Callable[..., Backend], nvml: MakeNvml
) -> None:
    nvml()
    backend(), backend("fake2")
    won: list[str] = []

    def grab(name: str) -> None:
        try:
            for _ in range(5):
                try:
                    take(name, 0)
                except PreflightFailed:
                    continue
                won.append(name)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=grab, args=(name,)) for name in ("fake", "fake2") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(won)) == 1
    assert GpuLease.objects.get(gpu="GPU-fake-0").fencing == len(won)
