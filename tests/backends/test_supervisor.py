"""The supervisor: engines outlive everybody, and are found, adopted and stopped again."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import keeper, supervisor
from backends.errors import StartFailed, StopFailed
from tests.fakes.engines.harness import (
    TIMEOUT,
    Yard,
    environment_of,
    keeper_of,
    kill,
    own_children,
    until,
    wait_dead,
    yard,
)


@pytest.fixture
def place() -> Iterator[Yard]:
    with yard() as made:
        yield made


def without_keeper(inst: supervisor.Instance) -> None:
    process = keeper_of(inst)
    kill(process, signal.SIGKILL)
    wait_dead(process)


# Start.


def test_a_started_engine_is_seen_at_once_and_completely(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    seen = supervisor.inspect(inst)  # before it has said anything
    engine = place.report()
    assert seen.alive
    assert seen.keeper_alive
    assert seen.exit is None
    assert seen.engine_pid == engine.pid
    assert seen.pids == supervisor.tree(inst) == (engine.pid,)
    assert seen.rss_bytes > 1_000_000
    assert supervisor.rss_bytes(inst) > 1_000_000
    assert supervisor.find(place.home, "fake") == [inst]


def test_a_start_leaves_no_child_and_no_zombie_with_its_starter(place: Yard) -> None:
    before = own_children()
    inst = place.spawn("fake_obedient.py")
    assert own_children() == before
    place.report()
    supervisor.stop(inst, grace=5)
    assert own_children() == before


def test_an_instance_starts_once(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    with pytest.raises(StartFailed, match="started before"):
        supervisor.spawn(inst, place.launch("fake_obedient.py"))


def test_engines_inherit_little_of_the_sites_environment(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_SECRET_KEY", "sites-own")
    monkeypatch.setenv("VLLM_API_KEY", "stray")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.delenv("HOME", raising=False)
    place.spawn("fake_obedient.py")
    env = environment_of(place.report().pid)
    assert not env.keys() & {"MH_SECRET_KEY", "VLLM_API_KEY", "PYTHONPATH"}
    assert env["CUDA_VISIBLE_DEVICES"] == "1"
    assert env["HF_HOME"] == "/models"
    assert env["HOME"] == str(Path.home())
    assert env["SPT_NOENV"] == "1"  # setproctitle would overwrite the marker


def test_a_keeper_that_cannot_run_is_a_failed_start(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    inst = place.new()
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(StartFailed) as failure:
        supervisor.spawn(inst, place.launch("fake_obedient.py"))
    assert "/no/python" in failure.value.detail
    assert "/no/python" not in failure.value.message


def test_a_keeper_that_says_nothing_is_a_failed_start(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    inst = place.new()
    monkeypatch.setattr(keeper, "__file__", "/dev/null")
    with pytest.raises(StartFailed) as failure:
        supervisor.spawn(inst, place.launch("fake_obedient.py"))
    assert "gave no answer" in failure.value.detail


def test_new_instances_sort_by_time_and_are_private(place: Yard) -> None:
    made = [place.new() for _ in range(20)]
    assert [i.instance_id for i in made] == sorted({i.instance_id for i in made})
    assert stat.S_IMODE(made[0].folder.stat().st_mode) == 0o700
    assert supervisor.instance(place.home, "fake", made[0].instance_id) == made[0]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 65, "a\n"])
def test_names_that_are_no_folder_of_ours_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        supervisor.instance(tmp_path, "fake", name)
    with pytest.raises(ValueError, match="cannot be the name"):
        supervisor.instance(tmp_path, name, "1")


# Surviving others.


def test_keeper_and_engine_survive_the_death_of_their_starter(place: Yard) -> None:
    """The starter is a process of its own, killed without warning, with its whole group."""
    inst = place.new()
    launch = place.launch("fake_obedient.py")
    program = (
        "import json, sys, types, pathlib\n"
        "from backends import supervisor\n"
        "home, instance_id, launch = json.loads(sys.argv[1])\n"
        "inst = supervisor.instance(pathlib.Path(home), 'fake', instance_id)\n"
        "supervisor.spawn(inst, types.SimpleNamespace(**launch))\n"
        "print('spawned', flush=True)\n"
        "sys.stdin.read()\n"
    )
    facts = {"argv": launch.argv, "env": launch.env, "secret_env": {}, "stop_timeout": 5}
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            json.dumps([str(place.home), inst.instance_id, facts]),
        ],
        cwd=Path(supervisor.__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with starter:
        assert starter.stdout
        assert starter.stdout.readline() == b"spawned\n"
        os.killpg(starter.pid, signal.SIGKILL)
    engine = place.report()
    seen = supervisor.inspect(inst)
    assert seen.keeper_alive
    assert seen.engine_pid == engine.pid
    stopped = supervisor.stop(inst, grace=5)
    assert stopped.exit is not None
    assert stopped.exit.status == 0


def test_an_engine_outlives_its_killed_keeper_and_goes_on_logging(place: Yard) -> None:
    inst = place.spawn("fake_chatty.py")
    engine = place.report()
    without_keeper(inst)
    engine.tell("1")
    assert engine.heard() == "written"
    assert supervisor.log_tail(inst) == ["line 0000001 of a long story"]
    seen = supervisor.inspect(inst)
    assert seen.alive
    assert not seen.keeper_alive
    assert seen.engine_pid == engine.pid
    assert supervisor.find(place.home, "fake") == [inst]


def test_without_its_keeper_an_engine_is_stopped_with_all_that_hides(place: Yard) -> None:
    inst = place.spawn("fake_escaping.py", "unmarked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    until(lambda: str(grandchild.pid) in (inst.folder / "keeper.json").read_text())
    without_keeper(inst)
    after = supervisor.stop(inst, grace=5)
    assert not engine.alive
    assert not grandchild.alive
    assert not after.alive
    assert after.exit is not None
    assert after.exit.requested
    assert after.exit.leftovers_killed == 1
    assert (after.exit.status, after.exit.signal) == (None, None)
    assert not (inst.folder / "tmp").exists()


def test_without_its_keeper_a_stubborn_engine_is_killed_after_the_grace(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    engine = place.report()
    without_keeper(inst)
    assert not supervisor.stop(inst, grace=0.1).alive
    assert not engine.alive


def test_a_keeper_that_is_stuck_does_not_keep_an_engine_from_being_stopped(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KEEPER_MARGIN", 0.1)
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    process = keeper_of(inst)
    kill(process, signal.SIGSTOP)
    after = supervisor.stop(inst, grace=0.1, kill_wait=0.1)
    assert not after.alive
    assert not after.keeper_alive
    assert not engine.alive


# Adoption.


def test_an_adopted_engine_is_kept_as_before(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    without_keeper(inst)
    supervisor.adopt(inst)
    seen = supervisor.inspect(inst)
    assert seen.keeper_alive
    assert seen.engine_pid == engine.pid
    assert seen.exit is None
    after = supervisor.stop(inst, grace=5)
    assert after.exit is not None
    assert after.exit.requested
    assert after.exit.status is None  # not our child: nobody knows
    assert not engine.alive
    assert not (inst.folder / "tmp").exists()


def test_the_end_of_an_adopted_engine_is_noticed_and_its_leftovers_ended(place: Yard) -> None:
    inst = place.spawn("fake_escaping.py", "marked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    without_keeper(inst)
    supervisor.adopt(inst)
    kill(engine.process, signal.SIGKILL)
    record = supervisor.wait_exit(inst, TIMEOUT)
    assert record is not None
    assert (record.status, record.signal, record.requested) == (None, None, False)
    assert record.leftovers_killed == 1
    assert not grandchild.alive


def test_an_engine_that_died_without_a_keeper_is_cleaned_up_by_adoption(place: Yard) -> None:
    inst = place.spawn("fake_escaping.py", "marked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    without_keeper(inst)
    kill(engine.process, signal.SIGKILL)
    wait_dead(engine.process)
    seen = supervisor.inspect(inst)
    assert seen.alive
    assert seen.engine_pid is None
    assert grandchild.pid in seen.pids
    supervisor.adopt(inst)
    record = supervisor.wait_exit(inst, TIMEOUT)
    assert record is not None
    assert record.leftovers_killed == 1
    assert not grandchild.alive


def test_adopting_what_is_kept_or_gone_does_nothing(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    before = keeper_of(inst)
    supervisor.adopt(inst)
    assert keeper_of(inst) == before
    supervisor.stop(inst, grace=5)
    supervisor.adopt(inst)
    assert not supervisor.inspect(inst).keeper_alive


def test_the_log_of_an_adopted_engine_is_still_kept_small(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_MAX_BYTES", 1000)
    inst = place.spawn("fake_chatty.py")
    engine = place.report()
    without_keeper(inst)
    supervisor.adopt(inst)
    engine.tell("100")
    assert engine.heard() == "written"
    until(lambda: supervisor.log_path(inst).stat().st_size == 0)


# Finding.


def test_an_engine_without_any_record_is_found_by_its_marker_and_stopped(place: Yard) -> None:
    inst = place.spawn("fake_escaping.py", "marked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    without_keeper(inst)
    for path in inst.folder.glob("*.json"):
        path.unlink()
    assert supervisor.find(place.home, "fake") == [inst]
    seen = supervisor.inspect(inst)
    assert set(seen.pids) == {engine.pid, grandchild.pid}
    supervisor.stop(inst, grace=5)
    assert not engine.alive
    assert not grandchild.alive
    assert supervisor.find(place.home, "fake") == []


def test_an_engine_whose_folder_was_removed_is_found_and_stopped(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    without_keeper(inst)
    inst.folder.rename(place.home / "away")
    assert supervisor.find(place.home, "fake") == [inst]
    assert not supervisor.stop(inst, grace=5).alive
    assert not engine.alive


def test_all_living_instances_are_found_newest_first(place: Yard) -> None:
    made = [place.spawn("fake_stubborn.py") for _ in range(2)]
    ended = place.spawn("fake_short_lived.py", "1")
    supervisor.wait_exit(ended, TIMEOUT)
    assert supervisor.find(place.home, "fake") == made[::-1]


def test_engines_of_another_site_or_backend_are_not_found(place: Yard) -> None:
    with yard("mh2") as other:
        inst = other.spawn("fake_obedient.py")
        engine = other.report()
        assert supervisor.find(place.home, "fake") == []
        assert supervisor.find(other.home, "fak") == []
        assert supervisor.find(other.home, "fake") == [inst]
        same_name = supervisor.Instance("fake", "nothing", place.home / "engines/fake/nothing")
        same_name.folder.mkdir(parents=True)
        supervisor.stop(same_name, grace=0)
        assert engine.alive


# Never the wrong one.


def forge_record(inst: supervisor.Instance, process: keeper.Process, boot: str) -> None:
    record = {
        "boot": boot,
        "keeper": process,
        "engine": process,
        "tree": [process],
        "shm": {},
        "tmp": None,
        "stop_timeout": 1,
    }
    (inst.folder / "keeper.json").write_text(json.dumps(record))


@pytest.mark.parametrize("what", ["start", "boot"])
def test_a_stranger_with_a_recorded_pid_is_neither_seen_nor_signalled(
    place: Yard, what: str
) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        now = keeper.identify(stranger.pid)
        assert now
        inst = place.new()
        if what == "start":
            forge_record(inst, keeper.Process(now.pid, now.start - 1), keeper.boot_id())
        else:
            forge_record(inst, now, "another boot of this machine")
        assert not supervisor.inspect(inst).alive
        assert supervisor.tree(inst) == ()
        assert supervisor.find(place.home, "fake") == []
        supervisor.adopt(inst)
        assert not supervisor.stop(inst, grace=0).alive
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


# Stopping.


def test_stop_can_be_repeated_and_asked_of_what_never_began(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    first = supervisor.stop(inst, grace=5)
    assert supervisor.stop(inst, grace=5) == first
    never = supervisor.stop(place.new(), grace=5)
    assert not never.alive
    assert never.exit is None


def test_two_stops_at_once_both_succeed(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    place.report()
    results: list[supervisor.Inspection] = []
    threads = [
        threading.Thread(target=lambda: results.append(supervisor.stop(inst, grace=0.1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.alive for result in results] == [False, False]


def test_processes_that_cannot_be_ended_are_named(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when they hang in a driver call: here, when our signals do not reach them."""
    inst = place.spawn("fake_stubborn.py")
    engine = place.report()
    without_keeper(inst)
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "send", lambda _process, _number: False)
        with pytest.raises(StopFailed, match=str(engine.pid)):
            supervisor.stop(inst, grace=0, kill_wait=0.1)
    assert supervisor.inspect(inst).alive
    assert (inst.folder / "tmp").exists()


# Waiting.


def test_the_end_of_an_engine_is_noticed_while_waiting_for_it(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    engine = place.report()
    assert supervisor.wait_exit(inst, 0) is None
    killer = threading.Timer(0.05, kill, (engine.process, signal.SIGKILL))
    killer.start()
    before = time.monotonic()
    record = supervisor.wait_exit(inst, TIMEOUT)
    assert time.monotonic() - before < 5
    assert record is not None
    assert record.signal == signal.SIGKILL


def test_the_end_of_an_engine_without_a_keeper_is_noticed_too(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    engine = place.report()
    without_keeper(inst)
    assert supervisor.wait_exit(inst, 0.02) is None
    kill(engine.process, signal.SIGKILL)
    record = supervisor.wait_exit(inst, TIMEOUT)
    assert record is not None
    assert (record.status, record.signal) == (None, None)


def test_looking_costs_little_enough_for_every_50_ms(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    before = time.thread_time()
    for _ in range(50):
        supervisor.inspect(inst)
    assert (time.thread_time() - before) / 50 < 0.005


# Logs and old starts.


def test_the_tail_of_a_log_is_what_a_person_would_see(place: Yard) -> None:
    inst = place.new()
    assert supervisor.log_tail(inst) == []
    supervisor.log_path(inst).write_bytes(
        b"\x1b[32mINFO\x1b[0m start\r\nloading: 10%\rloading: 90%\rloading: 100%\n\xff\0 odd\nlast"
    )
    assert supervisor.log_tail(inst) == ["INFO start", "loading: 100%", "\ufffd odd", "last"]
    assert supervisor.log_tail(inst, 1) == ["last"]
    assert supervisor.log_tail(inst, 0) == []


def test_of_a_huge_log_only_the_end_is_read(place: Yard) -> None:
    inst = place.new()
    supervisor.log_path(inst).write_bytes(b"x" * 10_000_000 + b"\nlast\n")
    tail = supervisor.log_tail(inst)
    assert tail[-1] == "last"
    assert sum(map(len, tail)) <= supervisor.LOG_TAIL_BYTES


def test_folders_of_old_starts_are_removed_but_not_of_living_ones(place: Yard) -> None:
    living = place.spawn("fake_obedient.py")
    place.report()
    made = [place.new() for _ in range(4)]
    supervisor.prune(place.home, "fake", keep=2)
    left = {path.name for path in living.folder.parent.iterdir()}
    assert left == {living.instance_id, made[2].instance_id, made[3].instance_id}
    supervisor.prune(place.home, "other")


# Ports.


def test_the_port_an_engine_listens_on_is_its_own(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    other = place.spawn("fake_stubborn.py")
    port = engine.facts["port"]
    assert supervisor.owns_listener(inst, port)
    assert not supervisor.owns_listener(other, port)
    holder = supervisor.port_holder(port, "127.0.0.1")
    assert holder is not None
    assert holder.startswith(f"pid {engine.pid} (")


def test_a_strangers_port_is_not_ours_and_says_whose_it_is(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stranger:
        assert stranger.stdout
        port = int(stranger.stdout.readline())
        assert not supervisor.owns_listener(inst, port)
        holder = supervisor.port_holder(port, "127.0.0.1")
        assert holder is not None
        assert holder.startswith(f"pid {stranger.pid} (python")
        assert supervisor.port_holder(port, "0.0.0.0") == holder
        assert supervisor.port_holder(port, "localhost") == holder
        stranger.kill()


def test_a_free_port_is_nobodys(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        own = supervisor.port_holder(port, "127.0.0.1")
        assert own is not None
        assert own.startswith(f"pid {os.getpid()} (")
    assert supervisor.port_holder(port, "127.0.0.1") is None
    assert supervisor.port_holder(port, "localhost") is None
    assert supervisor.port_holder(port, "192.0.2.1") is None  # not of this machine: TEST-NET
    assert not supervisor.owns_listener(inst, port)


def test_a_holder_that_is_not_ours_to_see_is_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monkeypatch.setattr(supervisor.ports, "sockets", lambda _pids: set())
        assert supervisor.port_holder(probe.getsockname()[1], "127.0.0.1") == "another process"


def test_a_listener_shared_with_a_stranger_is_not_ours(
    place: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    inst = place.spawn("fake_obedient.py")
    port = place.report().facts["port"]
    real = supervisor.ports.listeners(port)
    stranger = supervisor.ports.Listener(real[0].address, 1)
    monkeypatch.setattr(supervisor.ports, "listeners", lambda _port: [*real, stranger])
    assert not supervisor.owns_listener(inst, port)
    elsewhere = supervisor.ports.Listener("00000000", 1)
    monkeypatch.setattr(supervisor.ports, "listeners", lambda _port: [*real, elsewhere])
    assert supervisor.owns_listener(inst, port)


def test_a_keeper_begun_ahead_keeps_what_it_is_handed(place: Yard) -> None:
    ahead = supervisor.begin_keeper(place.new())
    supervisor.spawn(ahead.inst, place.launch("fake_obedient.py"), ahead=ahead)
    seen = supervisor.inspect(ahead.inst)
    assert seen.keeper_alive
    assert seen.engine_pid is not None
    ahead.end_unused()
    assert supervisor.inspect(ahead.inst).engine_pid == seen.engine_pid
    supervisor.stop(ahead.inst, grace=0.5)


def test_a_keeper_begun_ahead_and_not_used_leaves_nothing(place: Yard) -> None:
    ahead = supervisor.begin_keeper(place.new())
    ahead.end_unused()
    assert not ahead.inst.folder.exists()
    assert supervisor.find(place.home, "fake") == []
