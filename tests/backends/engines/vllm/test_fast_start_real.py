"""The warm launcher and the standby with real vLLM, through real operations."""

import os
import re
import signal
from collections.abc import Iterator

import pytest
import redis
from django.conf import settings

from accounts.actors import Actor
from backends import keeper, selectors, standby, supervisor
from backends.engines.vllm import VllmEngine, places
from backends.models import Backend, Operation, OperationState
from backends.ports import free_port
from backends.standby import Phase
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import wait_for
from tests.backends.test_standby import answers, begun, processes, running, start, stop

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

RIGHT = "The capital of France is Paris."


@pytest.fixture
def vllm(transactional_db: None, clean_broker: "redis.Redis") -> Iterator[FakeBackend]:
    VllmEngine().install(lambda fraction, message: None)
    port = free_port()
    Backend.objects.create(
        name="vllm",
        engine="vllm",
        node=settings.MH_NODE,
        options={"model": places.DEMO_MODEL, "port": port, "standby": True},
        state_since=selectors.now(),
    )
    yield FakeBackend(name="vllm", port=port)
    Operation.objects.update(cancel_requested=True)
    standby.discard_all(settings.MH_HOME, "vllm")
    for inst in supervisor.find(settings.MH_HOME, "vllm"):
        supervisor.stop(inst, grace=1)


def threads_of(backend: FakeBackend) -> set[tuple[str, str]]:
    """Return name and CPUs of vLLM's processes."""
    found = set()
    for pid in supervisor.tree(running(backend)):
        status = keeper.read_bytes(f"/proc/{pid}/status").decode()
        title = keeper.read_bytes(f"/proc/{pid}/cmdline").partition(b"\0")[0].decode()
        allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", status)
        if title.startswith("VLLM::") and allowed:
            found.add((title, allowed[1]))
    return found


def test_a_start_through_the_launcher_answers_as_the_plain_one(
    vllm: FakeBackend, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(vllm, owner_actor).state == OperationState.SUCCEEDED
    inst = running(vllm)
    assert standby.record(inst).phase == Phase.RUNNING
    assert answers(vllm) == RIGHT
    fast = threads_of(vllm)
    stop(vllm, owner_actor)
    assert processes(inst) == []
    monkeypatch.setattr("backends.engines.vllm.fast_start.is_known", lambda installation: False)
    assert start(vllm, owner_actor).state == OperationState.SUCCEEDED
    assert standby.record(running(vllm)).phase is None
    assert answers(vllm) == RIGHT
    # The worker is bound to the CPUs that vLLM chose for it, though it was forked.
    assert fast - {("VLLM::ForkServer", cpus) for _, cpus in fast} == threads_of(vllm)


def test_a_start_from_the_standby_answers_and_leaves_nothing(
    vllm: FakeBackend, owner_actor: Actor
) -> None:
    inst = begun_in(vllm, 180)
    assert start(vllm, owner_actor).state == OperationState.SUCCEEDED
    assert running(vllm) == inst
    assert answers(vllm) == RIGHT
    stop(vllm, owner_actor)
    assert processes(inst) == []


def test_a_standby_that_is_killed_falls_back_to_a_cold_start(
    vllm: FakeBackend, owner_actor: Actor
) -> None:
    inst = begun_in(vllm, 180)
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert start(vllm, owner_actor).state == OperationState.SUCCEEDED
    assert running(vllm) != inst
    assert processes(inst) == []
    assert answers(vllm) == RIGHT


def begun_in(backend: FakeBackend, seconds: float) -> supervisor.Instance:
    inst = begun(backend, ready=False)
    wait_for(lambda: standby.record(inst).phase == Phase.WAITING, seconds)
    return inst
