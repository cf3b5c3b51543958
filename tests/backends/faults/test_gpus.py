"""Faults of memory: when it counts as back, which GPUs are looked at, what fits, and who may have it when idle."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from accounts.actors import Actor
from backends import bus, memory, selectors, services
from backends.engines.estimates import Estimate
from backends.lifecycle import State
from backends.models import Operation, OperationState
from backends.observer import Observer
from tests.backends.conftest import FakeBackend
from tests.backends.faults.table import fault
from tests.backends.faults.test_switching import chatting
from tests.backends.faults.whole_site import WholeSite, until
from tests.backends.nvml import GIB, Nvml
from tests.backends.test_operations import ended

Make = Callable[..., FakeBackend]
MakeNvml = Callable[..., Nvml]


def run(backend: FakeBackend, actor: Actor, what: str, **more: Any) -> Operation:
    asked = getattr(services, f"backend_{what}")
    row = asked(actor=actor, name=backend.name, foreground=True, **more)
    backend.run()
    return ended(row)


@fault(4)
def test_stopped_is_said_when_the_memory_is_back(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    cards = nvml(1)
    cards.say(release_seconds=1.0)
    cards.use("fake", memory=20 * GIB)
    old, new = fake(gpus=(0,)), fake("fake2", gpus=(0,))
    assert run(old, owner_actor, "start").state == OperationState.SUCCEEDED
    Observer().look()
    pids = old.pids()
    row = services.backend_switch(actor=owner_actor, name="fake2", foreground=True)
    worker = new.run_in_thread()
    while worker.is_alive():
        if new.pids() or old.row.state == State.STOPPED:
            assert memory.gpu.memory_held(memory.gpu.gpus(), pids) == 0
        time.sleep(0.01)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error


@fault(4)
def test_memory_that_does_not_come_back_is_an_error_that_names_the_pids(
    fake: Make, owner_actor: Actor, nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RELEASE_SECONDS", 0.5)
    cards = nvml(1)
    cards.say(release_seconds=None)
    cards.use("fake", memory=8 * GIB)
    backend = fake(gpus=(0,))
    run(backend, owner_actor, "start")
    (pid,) = backend.pids()
    row = run(backend, owner_actor, "stop")
    assert row.state == OperationState.FAILED
    assert row.error
    assert f"{pid} (8.0 GiB on GPU 0)" in row.error["message"]
    assert backend.row.state == State.FAILED


@fault(21)
def test_every_gpu_is_read_and_a_process_counts_on_each_it_uses(
    fake: Make, owner_actor: Actor, nvml: MakeNvml
) -> None:
    cards = nvml(4)
    backend = fake(gpus=(1, 2, 3), arguments="--engine-core")
    assert run(backend, owner_actor, "start").state == OperationState.SUCCEEDED
    pids = set(backend.pids())
    assert len(pids) == 2
    for pid in pids:
        for number in (1, 2, 3):
            cards.hold(pid, 4 * GIB, gpu=number)
    Observer().look()
    seen = selectors.status()["gpus"]
    assert [card["memory_used"] for card in seen] == [0, 8 * GIB, 8 * GIB, 8 * GIB]
    for card in seen[1:]:
        assert {process["pid"] for process in card["processes"]} == pids
        assert {process["backend"] for process in card["processes"]} == {"fake"}
    other = fake("fake2", gpus=(0, 3))
    refused = run(other, owner_actor, "start")
    assert refused.error
    assert refused.error["code"] == "gpu_in_use"
    assert "GPU 3" in refused.error["message"]


@fault(22)
def test_what_cannot_fit_is_refused_before_anything_is_stopped(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    little = Estimate(model="fake-model", device="cpu", weights=1, other=1)
    huge = replace(little, weights=1 << 60)
    monkeypatch.setattr(
        FakeEngine,
        "estimate",
        lambda _, options: huge if options.model == "other-model" else little,
    )
    old, new = fake(), fake("fake2")
    assert run(old, owner_actor, "start").state == OperationState.SUCCEEDED
    before = old.pids()
    row = run(new, owner_actor, "switch", model="other-model")
    assert row.state == OperationState.FAILED
    assert row.error
    assert row.error["code"] == "does_not_fit"
    assert [step.name for step in row.steps.all()] == ["preflight"]
    assert old.pids() == before
    assert old.row.state == State.READY


@fault(19)
def test_only_what_changed_restarts_and_what_changed_counts(fake: Make, owner_actor: Actor) -> None:
    backend = fake()
    assert run(backend, owner_actor, "start").state == OperationState.SUCCEEDED

    def apply(**options: Any) -> bool:
        """Apply options; return whether the engine was restarted."""
        before = backend.pids()
        services.backend_configure(actor=owner_actor, name="fake", options=options)
        row = run(backend, owner_actor, "apply")
        assert row.state == OperationState.SUCCEEDED, row.error
        return backend.pids() != before

    assert not apply()
    assert not apply(parking="stop", idleUnloadSeconds=900)
    assert apply(arguments="--max-model-len 99")
    (pid,) = backend.pids()
    assert psutil.Process(pid).cmdline()[-2:] == ["--max-model-len", "99"]
    assert not apply()
    services.backend_configure(
        actor=owner_actor, name="fake", options={"arguments": "--max-model-len 98"}
    )
    assert run(backend, owner_actor, "restart").state == OperationState.SUCCEEDED
    (pid,) = backend.pids()
    assert psutil.Process(pid).cmdline()[-1] == "98"


@fault(23)
def test_of_an_unload_and_a_request_the_one_that_was_first_wins(
    fake: Make, owner_actor: Actor
) -> None:
    backend = fake()
    assert run(backend, owner_actor, "start").state == OperationState.SUCCEEDED
    row = services.backend_unload(actor=Actor.system(), name="fake", foreground=True)
    bus.redis_client().zadd("mh:leases:fake", {"somebody": time.time() + 60})
    before = backend.pids()
    backend.run()
    assert ended(row).state == OperationState.CANCELLED
    assert backend.pids() == before
    assert backend.row.state == State.READY


@fault(23)
def test_requests_while_it_is_unloaded_again_and_again_are_all_served(site: WholeSite) -> None:
    site.start("left", idleUnloadSeconds=1, onDemandStart=True, minimumStaySeconds=0)
    pauses = iter([1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 3.0] * 100)
    lock = threading.Lock()

    def ask() -> Any:
        with lock:
            pause = next(pauses)
        time.sleep(pause)
        return site.chat()

    with chatting(ask, clients=1) as answers:
        until(lambda: len(answers) >= 10, 120, "ten chats")
    unloads = [
        event for event in site.events(event="operation") if "unload left" in event["message"]
    ]
    assert unloads, "it was never idle"
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
