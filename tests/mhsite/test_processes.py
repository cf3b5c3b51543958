"""The parts of `mh up`."""

import configparser
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from accounts.errors import Invalid, InvalidRequest
from mhsite import home, settings_files
from mhsite.processes import address, boot, layout, lock
from mhsite.processes.address import Address, PortInUse
from mhsite.processes.console import Tail
from mhsite.processes.interrupts import Interrupts
from mhsite.processes.web import SERVERS
from tests.mhsite.test_up import until


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MH_HOME", str(tmp_path))
    return tmp_path


def test_only_one_holds_the_lock_and_the_other_hears_who(own_home: Path) -> None:
    with lock.SiteLock() as held:
        held.announce("http://127.0.0.1:8080/")
        with pytest.raises(lock.AlreadyRunning, match=rf"8080/ \(pid {os.getpid()}\)"):
            lock.SiteLock().__enter__()
        site = lock.running_site()
        assert site is not None
        assert site.pid == os.getpid()
    assert lock.running_site() is None
    with lock.SiteLock():
        pass


def test_a_note_of_a_reused_pid_is_no_running_site(own_home: Path) -> None:
    note = {"pid": os.getpid(), "started": 1, "url": "http://127.0.0.1:1/"}
    lock.lock_path().write_text(json.dumps(note))
    assert lock.running_site() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_note_is_no_running_site(own_home: Path, text: str) -> None:
    lock.lock_path().write_text(text)
    assert lock.running_site() is None


def test_an_ended_process_has_no_start_time() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: lock.process_started(process.pid) is None, 5, "its end, even as a zombie")
    process.wait()


def test_port_0_becomes_a_free_one() -> None:
    assert address.claim("127.0.0.1", 0).port > 0


def test_a_taken_port_is_refused_with_the_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} is in use by pid {os.getpid()}"):
            address.claim("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match="mh cannot listen on"):
        address.claim(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1/"),
        ("0.0.0.0", "http://127.0.0.1:1/"),
        ("::1", "http://[::1]:1/"),
        ("gpu1.lan", "http://gpu1.lan:1/"),
    ],
)
def test_the_url_is_one_this_machine_can_open(host: str, url: str) -> None:
    assert Address(host, 1).url == url


def test_nothing_there_is_not_ready() -> None:
    assert not address.is_ready(address.claim("127.0.0.1", 0), "localhost", https=False)


@pytest.mark.parametrize("name", ["with space", "with %(percent)s"])
def test_the_configuration_survives_odd_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    monkeypatch.setenv("MH_HOME", str(folder))
    layout.config_write(layout.programs(embedded_broker=True))
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read(layout.config_path())
    logfile = parser["program:web"]["stdout_logfile"]
    assert logfile.replace("%%", "%") == str(folder / "logs" / "web.log")
    assert layout.config_path().stat().st_mode & 0o077 == 0


def test_a_broker_of_somebody_elses_is_not_started() -> None:
    names = [program.name for program in layout.programs(embedded_broker=False)]
    assert names == ["worker", "observer", "web"]


def test_sockets_of_a_deep_home_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_HOME", str(tmp_path / ("d" * 100)))
    path = home.broker_socket()
    assert len(os.fsencode(path)) <= home.SOCKET_PATH_MAX
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.rmdir()


def test_new_lines_are_seen_through_rotation(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text("old\n")
    tail = Tail("x", path)
    assert tail.lines() == []
    with path.open("a") as file:
        file.write("one\ntw")
    assert tail.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    assert tail.lines() == ["two"]
    path.rename(tmp_path / "x.log.1")
    assert tail.lines() == []
    path.write_text("three\n")
    assert tail.lines() == ["three"]


def test_the_second_signal_hurries() -> None:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, 1)}
    interrupts = Interrupts()
    interrupts.install()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.asked.is_set()
        assert not interrupts.hurry()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.hurry()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_a_process_dies_with_its_parent() -> None:
    child = "from mhsite.processes.death import die_with_parent as d; d(); import time; print(1, flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", parent, child],
        capture_output=True,
        text=True,
        check=True,
        cwd=home.REPOSITORY,
    )
    pid = int(ended.stdout)
    until(lambda: lock.process_started(pid) is None, 5, "the child's death")


def test_each_server_that_can_be_chosen_is_named_in_the_settings() -> None:
    assert set(SERVERS) == {"uvicorn", "granian", "daphne"}


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_settings_file_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"models\.json"):
        settings_files.read_json(path)


def test_first_boot_imports_the_shipped_settings_and_later_ones_do_not(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.models import Backend, Switchboard

    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    monkeypatch.delenv("MH_OWNER_PASSWORD", raising=False)
    monkeypatch.setenv("MH_OWNER_USERNAME", "chief")
    first = boot.database_prepare()
    assert first.username == "chief"
    assert first.generated_password
    assert Switchboard.objects.get().active_backend_id == "vllm"
    Backend.objects.filter(name="vllm").update(options={"port": 8123})
    assert boot.database_prepare().generated_password is None
    assert Backend.objects.get(name="vllm").options == {"port": 8123}


def test_a_refused_settings_file_leaves_the_first_boot_to_the_next(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from accounts.models import User
    from backends.errors import InvalidOptions

    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "llm-backend.json").write_text('{"version": "1.0.0", "vlm": {}}')
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(home, "REPOSITORY", tmp_path)
    with pytest.raises(InvalidOptions, match="vlm"):
        boot.database_prepare()
    assert not User.objects.exists()
