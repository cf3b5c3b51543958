"""Faults of processes: what is left of an engine, whose it is, and when it counts as stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from accounts.actors import Actor
from backends import keeper, ports, selectors, services, supervisor
from backends.lifecycle import State
from backends.models import Operation, OperationState
from backends.observer import Observer
from backends.ports import free_port
from tests.backends.conftest import FakeBackend
from tests.backends.faults.table import fault
from tests.backends.test_operations import ask, ended, wait_for
from tests.fakes.engines.harness import Yard, yard

Make = Callable[..., FakeBackend]
FAKE_VLLM = Path(__file__).parents[2] / "fakes" / "fake_vllm.py"
#: Children that do what they can to outlive their parent.
STUBBORN = "--engine-core --behaviour child-own-session --behaviour child-ignores-term"


@pytest.fixture
def running(fake: Make, owner_actor: Actor) -> Make:
    def make(**options: Any) -> FakeBackend:
        backend = fake(**options)
        row = ask(owner_actor)
        backend.run()
        assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
        return backend

    return make


@pytest.fixture
def place() -> Iterator[Yard]:
    with yard() as made:
        yield made


@pytest.fixture
def strangers() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Engines that somebody else started."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> tuple[subprocess.Popen[bytes], int]:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, str(FAKE_VLLM), "--port", str(port), "--engine-core"],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        wait_for(lambda: answers(port))
        return process, port

    yield start
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        url = f"http://127.0.0.1:{port}/health"
        return httpx.get(url, trust_env=False, verify=False, timeout=5).status_code == 200
    return False


def instance_of(backend: FakeBackend) -> supervisor.Instance:
    inst = selectors.backend_instance(backend.row)
    assert inst is not None
    return inst


def engine_of(backend: FakeBackend) -> psutil.Process:
    """The engine's first process."""
    pid = wait_for(lambda: supervisor.inspect(instance_of(backend)).engine_pid)
    return psutil.Process(pid)


def lives(pid: int) -> bool:
    """Say whether ``pid`` runs; a zombie, which its new parent has yet to reap, does not."""
    process = keeper.identify(pid)
    return process is not None and keeper.is_alive(process)


def kill(pid: int | None) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


def look_until(done: Callable[[], bool], seconds: float = 15) -> None:
    """Be the observer."""
    observer = Observer()
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the observer did not see it"
        observer.look()
        time.sleep(0.05)


def nothing_left(backend: FakeBackend, pids: tuple[int, ...]) -> None:
    assert backend.pids() == ()
    assert not any(lives(pid) for pid in pids)
    assert ports.port_holder(backend.port, "127.0.0.1") is None


@fault(1)
def test_children_of_a_killed_engine_are_gone_when_it_is_said_to_be(running: Make) -> None:
    backend = running(arguments=STUBBORN)
    pids = backend.pids()
    assert len(pids) == 2
    engine_of(backend).kill()
    look_until(lambda: backend.row.state == State.FAILED)
    nothing_left(backend, pids)


@fault(1, 3)
def test_stopped_is_said_only_when_children_that_hear_no_term_are_gone(
    running: Make, owner_actor: Actor
) -> None:
    backend = running(arguments=STUBBORN, stopTimeoutSeconds=0.5)
    pids = backend.pids()
    row = ask(owner_actor, "stop")
    worker = backend.run_in_thread()
    while worker.is_alive():
        if backend.row.state == State.STOPPED:
            nothing_left(backend, pids)
        time.sleep(0.005)
    assert ended(row).state == OperationState.SUCCEEDED
    nothing_left(backend, pids)


@fault(2)
@pytest.mark.parametrize("while_it", ["loads", "warms up"])
def test_a_kill_during_the_start_leaves_no_orphans(
    fake: Make, owner_actor: Actor, while_it: str
) -> None:
    how = "--start-delay 14" if while_it == "loads" else "--behaviour silent"
    backend = fake(arguments=f"{STUBBORN} {how}")
    row = ask(owner_actor)
    worker = backend.run_in_thread()
    wait_for(lambda: len(backend.pids()) == 2)
    if while_it == "warms up":
        wait_for(lambda: ended(row).steps.filter(name="warm").exists())
    pids = backend.pids()
    engine_of(backend).kill()
    worker.join(30)
    assert ended(row).state == OperationState.FAILED
    assert backend.row.state == State.FAILED
    nothing_left(backend, pids)


@fault(3)
def test_an_engine_behind_a_wrapper_is_stopped_with_all_that_was_forked(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from mh_fake_engine import FakeEngine

    launch = FakeEngine.launch
    script = '"$@" & sleep 1000 & setsid sleep 1000 & wait'

    def wrapped(self: Any, options: Any) -> Any:
        plain = launch(self, options)
        return replace(plain, argv=("/bin/sh", "-c", script, "wrapper", *plain.argv))

    monkeypatch.setattr(FakeEngine, "launch", wrapped)
    backend = fake(arguments=STUBBORN, stopTimeoutSeconds=0.5)
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    pids = backend.pids()
    assert len(pids) == 5
    row = ask(owner_actor, "stop")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    nothing_left(backend, pids)


@fault(5)
def test_an_engine_of_somebody_else_lives_on_whatever_becomes_of_ours(
    running: Make, owner_actor: Actor, strangers: Callable[..., Any]
) -> None:
    others = [
        strangers(),
        # Of another site on this machine: the same marker, another folder.
        strangers(MH_INSTANCE="fake/20200101", MH_INSTANCE_FOLDER="/elsewhere/fake/20200101"),
    ]
    backend = running(arguments="--engine-core")
    engine_of(backend).kill()
    look_until(lambda: backend.row.state == State.FAILED)
    for what in ("start", "restart", "stop"):
        row = ask(owner_actor, what)
        backend.run()
        assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    for process, port in others:
        assert process.poll() is None
        assert answers(port)
        assert len(psutil.Process(process.pid).children()) == 1


@fault(6)
def test_a_reused_pid_is_not_signalled(place: Yard, strangers: Callable[..., Any]) -> None:
    stranger, port = strangers()
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    record = inst.folder / "keeper.json"
    value = keeper.read_json(record)
    assert value
    kill(value["keeper"][0])
    kill(engine.pid)
    wait_for(lambda: not engine.alive)
    # The numbers have gone round: the stranger has the pid of engine, keeper and child.
    reused = [stranger.pid, value["engine"][1]]
    keeper.write_json(record, value | {"engine": reused, "keeper": reused, "tree": [reused]})
    assert not supervisor.inspect(inst).alive
    supervisor.stop(inst, grace=0.1)
    assert stranger.poll() is None
    assert answers(port)


@fault(7)
def test_many_who_ask_for_a_start_at_once_get_one_operation_and_one_engine(
    fake: Make, owner_actor: Actor
) -> None:
    from django.db import connections

    backend = fake()
    rows: list[Operation] = []

    def start() -> None:
        try:
            rows.append(ask(owner_actor))
        finally:
            connections.close_all()

    together = [threading.Thread(target=start) for _ in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(30)
    assert len({row.pk for row in rows}) == 1
    assert len(rows) == 8
    workers = [backend.run_in_thread() for _ in range(4)]
    while any(worker.is_alive() for worker in workers):
        assert len(backend.pids()) <= 1
        time.sleep(0.01)
    assert ended(rows[0]).state == OperationState.SUCCEEDED
    assert len(backend.pids()) == 1


@fault(7)
def test_a_second_start_leaves_the_first_one_alone(running: Make, owner_actor: Actor) -> None:
    backend = running()
    pids = backend.pids()
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert backend.pids() == pids


@fault(8)
def test_a_start_whose_worker_was_killed_is_finished_by_the_next_worker(
    fake: Make, owner_actor: Actor, worker: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    backend = fake(arguments="--start-delay 8")
    first = worker()
    row = services.backend_start(actor=owner_actor, name="fake")
    pids = wait_for(backend.pids)
    first.kill()
    first.wait()
    assert backend.row.state == State.STARTING
    worker()
    wait_for(lambda: ended(row).finished_at, seconds=60)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert backend.row.state == State.READY
    assert backend.pids() == pids, "the engine that was starting is the one that serves"


@fault(9)
def test_a_failed_start_is_cleared_away_and_says_why(fake: Make, owner_actor: Actor) -> None:
    backend = fake(arguments=f"{STUBBORN} --start-delay 1 --behaviour exit=error")
    row = ask(owner_actor)
    worker = backend.run_in_thread()
    pids = wait_for(lambda: len(backend.pids()) == 2 and backend.pids())
    worker.join(30)
    row = ended(row)
    assert row.state == OperationState.FAILED
    nothing_left(backend, pids)
    assert "Engine core initialization failed" in row.error["detail"]
    log = selectors.backend_log("fake")
    assert any("larger than the available KV cache memory" in line for line in log)


@fault(12)
def test_one_missed_probe_changes_nothing_and_several_only_degrade(running: Make) -> None:
    backend = running()
    url = f"http://127.0.0.1:{backend.port}/_fake/behaviour"
    observer = Observer()

    def probe(*habits: str) -> str:
        httpx.post(url, json={"behaviour": habits}, trust_env=False, verify=False)
        observer._next_probe = 0.0
        observer.look()
        return str(backend.row.state)

    assert probe("unhealthy") == State.READY
    assert probe() == State.READY
    assert [probe("unhealthy") for _ in range(3)] == ["ready", "ready", "degraded"]
    assert probe("unhealthy") == State.DEGRADED, "it lives, so it is not called off"
    assert probe() == State.READY
    engine_of(backend).kill()
    look_until(lambda: backend.row.state == State.FAILED)


@fault(14)
def test_a_log_has_a_size_and_every_start_its_own(place: Yard) -> None:
    size = 20_000
    inst = place.spawn("fake_chatty.py", log_max_bytes=size, log_files=2)
    engine = place.report()
    for _ in range(4):
        engine.tell("1000")
        assert engine.heard() == "written"
        wait_for(lambda: supervisor.log_path(inst).stat().st_size <= size)
    kept = sum(path.stat().st_size for path in inst.folder.glob("engine.log*"))
    assert kept <= 5 * size, "of 140,000 bytes"
    last = supervisor.log_tail(inst)[-1]
    supervisor.stop(inst, grace=1)

    other = place.spawn("fake_short_lived.py", "3")
    supervisor.wait_exit(other, 20)
    assert supervisor.log_tail(other)[-1] == "ValueError: the weights are made of cheese"
    assert supervisor.log_tail(inst)[-1] == last


@fault(44)
def test_an_engine_whose_manager_was_killed_gets_a_new_one(running: Make) -> None:
    backend = running(arguments="--engine-core")
    pids = backend.pids()
    inst = instance_of(backend)
    record = keeper.read_json(inst.folder / "keeper.json")
    assert record
    kill(record["keeper"][0])
    look_until(lambda: supervisor.inspect(inst).keeper_alive)
    assert backend.row.state == State.READY
    assert backend.pids() == pids


@fault(44)
def test_an_orphan_that_nobody_remembers_is_removed_before_its_replacement_starts(
    running: Make, owner_actor: Actor
) -> None:
    backend = running(arguments=STUBBORN)
    orphans = backend.pids()
    record = keeper.read_json(instance_of(backend).folder / "keeper.json")
    assert record
    kill(record["keeper"][0])
    # As after a restored or lost database.
    services.backend_update(name="fake", state=State.STOPPED, instance_id="", endpoint="")
    row = ask(owner_actor)
    worker = backend.run_in_thread()
    while worker.is_alive():
        assert len(backend.pids()) <= 2, "never two at once"
        time.sleep(0.01)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert not any(lives(pid) for pid in orphans)
    assert engine_of(backend).pid in backend.pids()
    assert answers(backend.port)


@fault(46)
def test_a_grandchild_that_hides_and_holds_the_output_neither_survives_nor_delays_a_stop(
    place: Yard,
) -> None:
    inst = place.spawn("fake_escaping.py", "unmarked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    assert grandchild.facts["session"] == grandchild.pid
    log = str(supervisor.log_path(inst))
    assert Path(f"/proc/{grandchild.pid}/fd/1").readlink() == Path(log)
    began = time.monotonic()
    supervisor.stop(inst, grace=20)
    assert time.monotonic() - began < 10, "waited for a process that does not leave by itself"
    assert not engine.alive
    assert not grandchild.alive
