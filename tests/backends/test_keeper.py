"""The keeper, on real processes with bad habits."""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import pytest

from backends import keeper, supervisor
from backends.keeper import Process, Stat
from backends.supervisor import ExitRecord
from tests.fakes.engines.harness import (
    TIMEOUT,
    Yard,
    descriptors_of,
    environment_of,
    everything_in,
    keeper_of,
    kill,
    status_of,
    until,
    wait_dead,
    yard,
)


@pytest.fixture
def place() -> Iterator[Yard]:
    with yard() as made:
        yield made


def ended(inst: supervisor.Instance, timeout: float = TIMEOUT) -> ExitRecord:
    record = supervisor.wait_exit(inst, timeout)
    assert record is not None
    return record


# How an engine ends by itself.


def test_an_engine_that_exits_at_once_leaves_its_status_and_its_log(place: Yard) -> None:
    inst = place.spawn("fake_short_lived.py", "3")
    record = ended(inst)
    assert (record.status, record.signal, record.requested) == (3, None, False)
    assert supervisor.log_tail(inst)[-1] == "ValueError: the weights are made of cheese"
    assert not (inst.folder / "tmp").exists()


def test_an_engine_that_is_killed_leaves_the_signal(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    kill(place.report().process, signal.SIGKILL)
    record = ended(inst)
    assert (record.status, record.signal, record.requested) == (None, signal.SIGKILL, False)


@pytest.mark.parametrize("marker", ["unmarked", "marked"])
def test_a_grandchild_that_hides_is_ended_within_a_second_of_its_killed_engine(
    place: Yard, marker: str
) -> None:
    inst = place.spawn("fake_escaping.py", marker)
    engine, grandchild = place.report("engine"), place.report("grandchild")
    assert grandchild.facts["session"] == grandchild.pid
    assert set(supervisor.tree(inst)) == {engine.pid, grandchild.pid}
    before = time.monotonic()
    kill(engine.process, signal.SIGKILL)
    record = ended(inst)
    # 0.5 s on a machine with nothing else to do; never as long as the look at the tree takes turns
    assert time.monotonic() - before < keeper.TREE_CHECK_INTERVAL
    assert not grandchild.alive
    assert record.signal == signal.SIGKILL
    assert record.leftovers_killed == 1


def test_an_engine_that_cannot_be_executed_leaves_the_systems_reason(place: Yard) -> None:
    inst = place.new()
    launch = place.launch("fake_obedient.py")
    missing = type(launch)(
        argv=("/no/such/engine",), host="", port=0, served_model="", start_timeout=1
    )
    with pytest.raises(supervisor.StartFailed) as failure:
        supervisor.spawn(inst, missing)
    assert "No such file or directory: '/no/such/engine'" in failure.value.detail
    assert "/no/such" not in failure.value.message
    record = ended(inst, 0)
    assert (record.status, record.signal) == (None, None)
    assert record.error == failure.value.detail
    assert not (inst.folder / "tmp").exists()
    assert not supervisor.inspect(inst).alive


# Requested stops.


def test_an_obedient_engine_leaves_by_itself_at_a_stop(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    record = supervisor.stop(inst, grace=10).exit
    assert record is not None
    assert (record.status, record.signal, record.requested) == (0, None, True)
    assert record.leftovers_killed == 0


def test_an_engine_that_ignores_term_is_killed_after_the_grace(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py")
    engine = place.report()
    before = time.monotonic()
    record = supervisor.stop(inst, grace=0.3).exit
    assert 0.3 <= time.monotonic() - before < 5.0
    assert record is not None
    assert (record.signal, record.requested) == (signal.SIGKILL, True)
    assert not engine.alive


def test_a_hidden_grandchild_does_not_survive_a_stop_nor_double_its_time(place: Yard) -> None:
    inst = place.spawn("fake_escaping.py", "unmarked")
    engine, grandchild = place.report("engine"), place.report("grandchild")
    before = time.monotonic()
    after = supervisor.stop(inst, grace=0.5)
    assert time.monotonic() - before < 5.0
    assert not after.alive
    assert not engine.alive
    assert not grandchild.alive


@pytest.mark.process
def test_what_a_wrapper_leaves_is_given_time_to_end_well(place: Yard) -> None:
    inst = place.spawn("fake_wrapper.py")
    place.report("wrapper")
    engine = place.report("engine")
    record = supervisor.stop(inst, grace=10).exit
    assert engine.heard() == "saving"
    assert engine.heard() == "saved"
    assert record is not None
    assert record.signal == signal.SIGTERM
    assert record.leftovers_killed == 1


def test_term_to_the_keeper_alone_is_a_stop_with_the_launchs_own_time(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py", stop_timeout=0.2)
    place.report()
    kill(keeper_of(inst), signal.SIGTERM)
    record = ended(inst)
    assert (record.signal, record.requested) == (signal.SIGKILL, True)


def test_a_second_request_shortens_the_grace_of_the_first(place: Yard) -> None:
    inst = place.spawn("fake_stubborn.py", stop_timeout=600)
    place.report()
    kill(keeper_of(inst), signal.SIGTERM)
    assert supervisor.wait_exit(inst, 0.1) is None
    record = supervisor.stop(inst, grace=0.1).exit
    assert record is not None
    assert record.requested


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1])
def test_the_keeper_is_not_ended_by_a_terminal(place: Yard, number: int) -> None:
    inst = place.spawn("fake_obedient.py")
    engine = place.report()
    kill(keeper_of(inst), number)
    assert supervisor.wait_exit(inst, 0.1) is None
    assert engine.alive
    record = supervisor.stop(inst, grace=5).exit  # it still hears a stop
    assert record is not None
    assert record.status == 0


# What an engine gets, and what it must not get.


def test_the_engine_starts_clean(place: Yard) -> None:
    """No inherited descriptor, no terminal, no ignored signal, an environment of its own."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGCHLD)}
    try:
        inst = place.spawn("fake_stubborn.py")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
    engine = place.report()
    open_files = descriptors_of(engine.pid)
    assert open_files.pop(0) == "/dev/null"
    assert open_files.pop(1) == open_files.pop(2) == str(supervisor.log_path(inst))
    assert [target.split(":")[0] for target in open_files.values()] == ["socket"]  # its report
    env = environment_of(engine.pid)
    assert env["MH_INSTANCE"] == inst.marker == f"fake/{inst.instance_id}"
    assert env["TMPDIR"] == env["VLLM_RPC_BASE_PATH"] == str(inst.folder / "tmp")
    assert env["FAKE_API_KEY"] == "sk-very-secret"
    assert "DJANGO_SETTINGS_MODULE" not in env
    assert os.getsid(engine.pid) == os.getpgid(engine.pid) == engine.pid


def test_signals_the_starter_ignores_are_not_ignored_by_the_engine(place: Yard) -> None:
    ignored = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        inst = place.new()
        sleeper = type(place.launch("x"))(argv=("sleep", "600"), host="", port=0, served_model="")
        supervisor.spawn(inst, sleeper)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    pid = supervisor.inspect(inst).engine_pid
    assert pid
    status = status_of(pid)
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0


def test_secrets_are_in_no_file_no_argument_and_no_environment_but_the_engines(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    pid = keeper_of(inst).pid
    assert b"sk-very-secret" not in everything_in(inst.folder)
    assert b"sk-very-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert b"sk-very-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    supervisor.stop(inst, grace=5)
    assert b"sk-very-secret" not in everything_in(inst.folder)


def test_what_it_writes_is_its_owners_only(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    supervisor.stop(inst, grace=5)
    for path in [inst.folder, *inst.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_keeper_holds_no_terminal_and_nothing_of_its_starter(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    pid = keeper_of(inst).pid
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    open_files = descriptors_of(pid)
    assert open_files.pop(0) == open_files.pop(1) == "/dev/null"
    ours = {str(inst.folder / name) for name in ("engine.log", "keeper.log", "keeper.lock")}
    others = {t for t in open_files.values() if t not in ours and not t.startswith("anon_inode:")}
    assert all(target.startswith("pipe:") for target in others)  # its own wake-up pipe
    assert len(others) == 1


# Litter.


def test_what_an_engine_leaves_in_its_temporary_folder_and_shared_memory_is_removed(
    place: Yard,
) -> None:
    inst = place.spawn("fake_littering.py")
    engine = place.report()
    assert engine.facts["tmp"] == str(inst.folder / "tmp")
    shm = Path(engine.facts["shm"])
    until(lambda: str(shm) in (inst.folder / "keeper.json").read_text())
    kill(engine.process, signal.SIGKILL)
    ended(inst)
    assert not (inst.folder / "tmp").exists()
    assert not shm.exists()


def test_shared_memory_that_somebody_else_still_uses_stays(place: Yard) -> None:
    inst = place.spawn("fake_littering.py")
    engine = place.report()
    shm = Path(engine.facts["shm"])
    until(lambda: str(shm) in (inst.folder / "keeper.json").read_text())
    mine = shared_memory.SharedMemory(name=shm.name)
    try:
        kill(engine.process, signal.SIGKILL)
        ended(inst)
        assert shm.exists()
    finally:
        mine.close()
        mine.unlink()


def test_shared_memory_that_was_made_anew_under_the_same_name_stays() -> None:
    other = shared_memory.SharedMemory(create=True, size=64)
    path = f"/dev/shm/{other.name}"
    mapped = keeper.mapped_shm([Process(os.getpid(), 0)])
    assert path in mapped
    other.close()
    keeper.remove_shm({path: "00:00 1"})
    assert Path(path).exists()
    keeper.remove_shm({path: mapped[path]})
    assert not Path(path).exists()
    resource_tracker.unregister(f"/{other.name}", "shared_memory")


def test_a_home_too_deep_for_sockets_gets_a_short_temporary_folder(place: Yard) -> None:
    place.home = place.home / ("deep" * 20)
    inst = place.spawn("fake_littering.py")
    engine = place.report()
    tmp = Path(engine.facts["tmp"])
    assert len(str(tmp)) <= keeper.TMP_PATH_MAX
    record = keeper.read_json(inst.folder / "keeper.json")
    assert record
    assert record["tmp"] == str(tmp)
    assert stat.S_IMODE(tmp.stat().st_mode) == 0o700
    supervisor.stop(inst, grace=5)
    assert not tmp.exists()


def test_only_a_folder_of_ours_is_ever_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    link = tmp_path / "mh-link"
    precious.mkdir()
    link.symlink_to(precious)
    for path in (precious, link, None):
        keeper.remove_private_tmp(tmp_path / "folder", path)
    assert precious.exists()
    assert link.is_symlink()


# The log.


@pytest.mark.process
def test_a_log_that_grows_is_rotated_under_its_writer(place: Yard) -> None:
    inst = place.spawn("fake_chatty.py", log_max_bytes=100_000, log_files=2)
    engine = place.report()
    first = inst.folder / "engine.log.1"
    for turn in (1, 2, 3):
        engine.tell("5000")  # 150 kB
        assert engine.heard() == "written"
        until(lambda turn=turn: first.exists() and f"{turn * 5000:07d}" in first.read_text())
        until(lambda: supervisor.log_path(inst).stat().st_size == 0)
    assert sorted(path.name for path in inst.folder.glob("engine.log*")) == [
        "engine.log",
        "engine.log.1",
        "engine.log.2",
    ]
    engine.tell("1")
    assert engine.heard() == "written"
    assert supervisor.log_path(inst).read_text() == "line 0015001 of a long story\n"
    assert supervisor.log_tail(inst, 2) == [
        "line 0015000 of a long story",
        "line 0015001 of a long story",
    ]


def test_a_log_that_cannot_be_copied_is_still_kept_small(tmp_path: Path) -> None:
    log = keeper.Log(tmp_path / "engine.log", max_bytes=10, files=1)
    os.write(log.descriptor, b"x" * 100)
    (tmp_path / "engine.log.1").mkdir()
    log.keep_small()
    assert (tmp_path / "engine.log").stat().st_size == 0


# Identities.


def test_a_reused_pid_is_never_signalled() -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        now = keeper.identify(stranger.pid)
        assert now
        earlier = Process(now.pid, now.start - 1)
        assert not keeper.is_alive(earlier)
        assert not keeper.send(earlier, signal.SIGKILL)
        assert keeper.wait_gone([earlier], 0)
        assert stranger.poll() is None
        assert keeper.is_alive(now)
    finally:
        stranger.kill()
        stranger.wait()
    assert not keeper.is_alive(now)


def test_without_pidfds_processes_are_still_signalled_and_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_pidfd(_pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    child = subprocess.Popen(["sleep", "600"])
    process = keeper.identify(child.pid)
    assert process
    assert not keeper.wait_gone([process], 0.02)
    assert not keeper.send(Process(process.pid, process.start + 1), signal.SIGKILL)
    assert keeper.send(process, signal.SIGKILL)
    assert keeper.wait_gone([process], TIMEOUT)
    assert child.wait() == -signal.SIGKILL


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen(["true"])
    process = Process(child.pid, 0)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{process.pid}").exists()
    assert keeper.read_stat(child.pid) is None
    child.wait()


def test_names_with_brackets_and_blanks_are_read(tmp_path: Path) -> None:
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "600"])
    try:
        found = until(lambda: (s := keeper.read_stat(child.pid)) and "R" in s.name and s)
        assert found.name == "a) R (b"
        assert found.parent == os.getpid()
    finally:
        child.kill()
        child.wait()


def table(*rows: tuple[int, int, int]) -> dict[int, Stat]:
    """Rows of (pid, parent, session); every process started at tick 7."""
    return {pid: Stat(Process(pid, 7), "x", parent, session) for pid, parent, session in rows}


ENGINE = Process(10, 7)


def pids(found: set[Process]) -> set[int]:
    return {process.pid for process in found}


def test_a_family_is_descendants_and_sessions_of_its_members() -> None:
    processes = table((10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 12), (14, 1, 14), (1, 0, 1))
    assert pids(keeper.family(processes, [ENGINE], ENGINE)) == {10, 11, 12, 13}


def test_a_dead_leaders_session_counts_while_a_known_member_lives() -> None:
    processes = table((11, 1, 10), (12, 1, 10), (14, 1, 14))
    assert pids(keeper.family(processes, [ENGINE, Process(11, 7)], ENGINE)) == {11, 12}


def test_a_session_of_a_dead_leader_without_known_members_is_not_ours() -> None:
    processes = table((11, 1, 10), (12, 1, 10))
    assert keeper.family(processes, [ENGINE], ENGINE) == set()


def test_a_member_of_somebody_elses_session_does_not_bring_that_session() -> None:
    processes = table((11, 50, 50), (50, 1, 50), (51, 50, 50))
    assert pids(keeper.family(processes, [Process(11, 7)], ENGINE)) == {11}


def test_a_reused_pid_brings_no_family() -> None:
    processes = table((10, 1, 10), (11, 10, 10))
    assert keeper.family(processes, [Process(10, 6)], Process(10, 6)) == set()


# Being one of a kind.


def test_a_second_keeper_for_the_same_engine_is_refused(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    assert keeper.take_lock(inst.folder) is None


def test_the_end_of_a_keeper_frees_its_engine_for_the_next(place: Yard) -> None:
    inst = place.spawn("fake_obedient.py")
    place.report()
    process = keeper_of(inst)
    kill(process, signal.SIGKILL)
    wait_dead(process)
    lock = keeper.take_lock(inst.folder)
    assert lock is not None
    os.close(lock)


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "keeper.json"
    assert keeper.read_json(path) is None
    for content in ("", "{", "[1]", "\xff"):
        path.write_text(content)
        assert keeper.read_json(path) is None
