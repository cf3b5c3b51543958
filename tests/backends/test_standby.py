"""Starts through the warm launcher and from a standby: on real processes, with a fake vLLM package."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from accounts.actors import Actor
from backends import keeper, leases, secrets, selectors, services, standby, supervisor
from backends.lifecycle import State
from backends.models import Operation, OperationState
from backends.observer import Observer
from backends.standby import Phase
from backends.supervisor import Instance
from mhsite.processes import engines
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import ended, wait_for

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


def start(backend: FakeBackend, actor: Actor) -> Operation:
    row = services.backend_start(actor=actor, name=backend.name, foreground=True)
    backend.run()
    return ended(row)


def stop(backend: FakeBackend, actor: Actor) -> None:
    services.backend_stop(actor=actor, name=backend.name, foreground=True)
    backend.run()
    assert backend.row.state == State.STOPPED


def running(backend: FakeBackend) -> Instance:
    inst = selectors.backend_instance(backend.row)
    assert inst is not None
    return inst


def worker(inst: Instance) -> dict[str, Any]:
    return json.loads((inst.folder / "worker.json").read_text())


def log(inst: Instance) -> str:
    return "\n".join(supervisor.log_tail(inst))


def answers(backend: FakeBackend) -> str:
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    url = f"http://127.0.0.1:{backend.port}/v1/chat/completions"
    return httpx.post(url, json=body, trust_env=False).json()["choices"][0]["message"]["content"]


def wanted(backend: FakeBackend) -> Any:
    row = backend.row
    return selectors.backend_engine(row).standby(selectors.backend_options(row))


def begun(backend: FakeBackend, *, ready: bool = True) -> Instance:
    inst = standby.begin(settings.MH_HOME, backend.name, wanted(backend))
    if ready:
        wait_for(lambda: standby.record(inst).phase == Phase.WAITING)
    return inst


def waiting(backend: FakeBackend) -> list[Instance]:
    return supervisor.waiting(settings.MH_HOME, backend.name)


def processes(inst: Instance) -> list[int]:
    """Every process that carries the instance's marker, found by searching."""
    return sorted(p.pid for p in keeper.marked(keeper.process_table(), inst.marker))


# --- through the launcher -------------------------------------------------------------------------


def test_vllm_is_imported_once_for_three_processes(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm")
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    inst = running(warm)
    assert worker(inst)["imports"] == 1
    assert standby.record(inst).phase == Phase.RUNNING
    assert answers(warm) == "The capital of France is Paris."


def test_what_vllm_forks_has_the_environment_it_would_have_been_spawned_with(
    fake: Make, owner_actor: Actor
) -> None:
    warm = fake("warm")
    start(warm, owner_actor)
    found = worker(running(warm))
    assert found["environ"]["FAKE_LATE"] == "set while it starts"
    assert found["environ"]["OMP_NUM_THREADS"] == "3"
    assert found["threads"] == 3


def test_a_stop_leaves_nothing_of_the_fork_server(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm")
    start(warm, owner_actor)
    inst = running(warm)
    assert len(processes(inst)) >= 4  # API server, fork server, engine core, worker
    stop(warm, owner_actor)
    assert processes(inst) == []
    exited = supervisor.inspect(inst).exit
    assert exited is not None
    assert exited.requested


def test_when_the_api_server_is_killed_nothing_is_left(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm")
    start(warm, owner_actor)
    inst = running(warm)
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert supervisor.wait_exit(inst, 10) is not None
    assert processes(inst) == []


def test_a_version_nobody_has_tried_starts_plainly(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm", version="0.33.0", importSeconds=0.05)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    assert standby.record(running(warm)).phase is None
    assert worker(running(warm))["imports"] == 3


@pytest.mark.parametrize("wrong", ["import-fails", "cuda"])
def test_what_fails_in_the_launcher_ends_in_a_plain_start_and_the_log_says_so(
    fake: Make, owner_actor: Actor, wrong: str
) -> None:
    warm = fake("warm", wrong=wrong, importSeconds=0.05)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    inst = running(warm)
    assert standby.record(inst).phase == Phase.PLAIN
    assert "starting vLLM the plain way" in log(inst)
    assert answers(warm) == "The capital of France is Paris."


def test_a_forked_process_that_crashes_has_the_start_tried_plainly_once(
    fake: Make, owner_actor: Actor
) -> None:
    warm = fake("warm", wrong="worker-crashes", importSeconds=0.05)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    assert standby.record(running(warm)).phase is None
    folders = sorted((Path(settings.MH_HOME) / "engines" / "warm").iterdir())
    failed = json.loads((folders[-2] / "launcher.json").read_text())
    assert failed["phase"] == "crashed"
    assert "SIGSEGV" in failed["reason"]


def test_a_start_that_no_launcher_can_help_is_not_tried_twice(
    fake: Make, owner_actor: Actor
) -> None:
    warm = fake("warm", wrong="refuses", importSeconds=0.05)
    before = set((Path(settings.MH_HOME) / "engines").glob("warm/*"))
    row = start(warm, owner_actor)
    assert row.state == OperationState.FAILED
    assert row.error is not None
    assert "this fake refuses to start" in row.error["detail"]
    assert len(set((Path(settings.MH_HOME) / "engines").glob("warm/*")) - before) == 1


def test_killed_while_it_imports_the_start_goes_on_plainly(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm", importSeconds=1.0)
    row = services.backend_start(actor=owner_actor, name="warm", foreground=True)
    thread = warm.run_in_thread()
    wait_for(lambda: bool(warm.row.instance_id))
    inst = running(warm)
    wait_for(lambda: standby.record(inst).phase == Phase.IMPORTING)
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert ended(row).state == OperationState.SUCCEEDED
    assert running(warm) != inst


# --- standby --------------------------------------------------------------------------------------


def test_a_start_is_made_from_the_standby(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm", standby=True)
    type(warm.row).objects.filter(name="warm").update(secrets=secrets.seal({"apiKey": "a-secret"}))
    inst = begun(warm)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    assert running(warm) == inst
    assert standby.was_standby(inst)
    assert waiting(warm) == []
    found = worker(inst)
    assert found["imports"] == 1
    assert found["environ"]["VLLM_API_KEY"] == "a-secret"
    assert not any(name.endswith("/go") for name in found["descriptors"])
    for path in inst.folder.rglob("*"):
        if path.is_file() and path.name != "worker.json":
            assert "a-secret" not in path.read_text(errors="replace"), path


def test_a_standby_is_no_engine(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm)
    assert supervisor.find(settings.MH_HOME, "warm") == []
    Observer().look()
    shown = selectors.status()["available"]["warm"]
    assert (shown["state"], shown["running"]) == (State.STOPPED, False)
    assert shown["standby"] is not None
    assert shown["standby"]["state"] == "ready"
    assert shown["standby"]["memory"] > 1 << 20
    supervisor.prune(settings.MH_HOME, "warm", keep=0)
    assert inst.folder.exists()


def test_one_that_is_still_importing_is_used_all_the_same(fake: Make, owner_actor: Actor) -> None:
    warm = fake("warm", standby=True, importSeconds=1.0)
    inst = begun(warm, ready=False)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    assert running(warm) == inst


@pytest.mark.parametrize("moment", ["waiting", "chosen"])
def test_a_standby_that_is_killed_costs_nothing_but_its_time(
    fake: Make, owner_actor: Actor, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm)
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    if moment == "waiting":
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not supervisor.inspect(inst).alive)
    else:
        tell = standby.tell

        def told(*arguments: Any) -> bool:
            os.kill(pid, signal.SIGSTOP)
            said = tell(*arguments)
            os.kill(pid, signal.SIGKILL)
            return said

        monkeypatch.setattr(standby, "tell", told)
    assert start(warm, owner_actor).state == OperationState.SUCCEEDED
    assert running(warm) != inst
    assert processes(inst) == []
    assert answers(warm) == "The capital of France is Paris."


def test_a_killed_standby_leaves_no_fork_server(fake: Make) -> None:
    inst = begun(fake("warm", standby=True))
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    assert len(processes(inst)) == 2
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: processes(inst) == [])


def test_one_that_was_chosen_and_never_told_gives_up(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm)
    assert standby.choose(settings.MH_HOME, "warm", wanted(warm)) == inst
    exited = supervisor.wait_exit(inst, 20)
    assert exited is not None
    assert exited.status == 75
    assert standby.launcher_failure(inst)


def test_only_one_of_two_starts_gets_it(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm)
    assert standby.choose(settings.MH_HOME, "warm", wanted(warm)) == inst
    assert standby.choose(settings.MH_HOME, "warm", wanted(warm)) is None
    assert not standby.discard(inst)
    supervisor.stop(inst, grace=0.2)


def test_a_standby_of_another_version_is_not_used_and_is_replaced(
    fake: Make, owner_actor: Actor
) -> None:
    warm = fake("warm", standby=True, version="0.32.0")
    old = begun(warm)
    type(warm.row).objects.filter(name="warm").update(
        options=warm.row.options | {"version": "0.32.1"}
    )
    assert standby.choose(settings.MH_HOME, "warm", wanted(warm)) is None
    Observer().look()
    assert not old.folder.exists()
    assert processes(old) == []
    assert len(waiting(warm)) == 1


def test_the_observer_keeps_one_and_replaces_it_when_it_dies(fake: Make) -> None:
    warm = fake("warm", standby=True, importSeconds=0.05)
    observer = Observer()
    observer.look()
    (first,) = waiting(warm)
    wait_for(lambda: standby.record(first).phase == Phase.WAITING)
    observer.reserve.look("warm", selectors.standby_wanted(warm.row))
    assert waiting(warm) == [first]
    pid = supervisor.inspect(first).engine_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.inspect(first).alive)
    observer.reserve.look("warm", selectors.standby_wanted(warm.row))
    (second,) = waiting(warm)
    assert second != first
    assert not first.folder.exists()


def test_one_whose_keeper_was_killed_is_replaced(fake: Make) -> None:
    warm = fake("warm", standby=True, importSeconds=0.05)
    inst = begun(warm)
    (keeper_pid, _) = json.loads((inst.folder / "keeper.json").read_text())["keeper"]
    os.kill(keeper_pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.inspect(inst).keeper_alive)
    Observer().reserve.look("warm", selectors.standby_wanted(warm.row))
    assert processes(inst) == []
    assert len(waiting(warm)) == 1


def test_one_that_dies_again_and_again_is_not_begun_all_the_time(fake: Make) -> None:
    warm = fake("warm", standby=True, wrong="import-fails", importSeconds=0.0)
    reserve = standby.Reserve(settings.MH_HOME)
    begun_at_all = 0
    for _ in range(4):
        reserve.look("warm", selectors.standby_wanted(warm.row))
        for inst in waiting(warm):
            begun_at_all += 1
            wait_for(lambda inst=inst: standby.record(inst).phase == Phase.FAILED)  # type: ignore[misc]
    assert begun_at_all == 2


def test_switched_off_it_is_ended(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm, ready=False)
    type(warm.row).objects.filter(name="warm").update(options={"port": warm.port})
    Observer().look()
    assert processes(inst) == []
    assert waiting(warm) == []


def test_the_end_of_the_site_ends_all_of_them(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm, ready=False)
    engines.standbys_end()
    assert processes(inst) == []
    assert not inst.folder.exists()


def test_the_standby_of_a_backend_that_was_deleted_is_ended(fake: Make) -> None:
    warm = fake("warm", standby=True)
    inst = begun(warm, ready=False)
    warm.row.delete()
    Observer().look()
    assert processes(inst) == []


# --- while another engine drains -------------------------------------------------------------------


def test_a_switch_begins_a_launcher_before_it_stops_what_runs(
    fake: Make, owner_actor: Actor
) -> None:
    old, warm = fake(), fake("warm")
    start(old, owner_actor)
    row = services.backend_switch(actor=owner_actor, name="warm", foreground=True)
    warm.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert standby.was_standby(running(warm))
    assert worker(running(warm))["imports"] == 1


def test_a_switch_that_fails_leaves_no_launcher(fake: Make, owner_actor: Actor) -> None:
    old, warm = fake(), fake("warm", wrong="refuses")
    start(old, owner_actor)
    row = services.backend_switch(actor=owner_actor, name="warm", foreground=True)
    warm.run()
    assert ended(row).state == OperationState.ROLLED_BACK
    assert old.row.state == State.READY
    assert waiting(warm) == []


def test_a_switch_cancelled_while_it_drains_ends_the_launcher(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, warm = fake(drainSeconds=30.0), fake("warm")
    start(old, owner_actor)
    monkeypatch.setattr(leases, "in_flight", lambda name: 1)
    row = services.backend_switch(actor=owner_actor, name="warm", foreground=True)
    thread = warm.run_in_thread()
    wait_for(lambda: bool(waiting(warm)))
    (inst,) = waiting(warm)
    services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    thread.join(20)
    assert ended(row).state == OperationState.CANCELLED
    assert old.row.state == State.READY
    assert processes(inst) == []
