"""``mh up`` as a person runs it: real processes, nothing left afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backends.ports import free_port
from mhsite.home import REPOSITORY

PLUGIN = REPOSITORY / "tests" / "fakes" / "plugin"
PASSWORD = "pw-for-the-up-test"
READY_SECONDS = 90.0
#: Set by tests/isolation.py for this process; a site is a stranger to it.
NOT_INHERITED = ("MH_NODE", "DJANGO_SETTINGS_MODULE")
#: Groups begin before single tests, so that none of these is alone at the end of a run.
LONG = pytest.mark.xdist_group("whole sites")


def until(question: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return answer


class Site:
    """An `mh up` of the tests: a home of its own, ports of its own, the fake engine installed."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED} | {
            "MH_HOME": str(home),
            "MH_PORT": "0",
            "MH_DEMO": "0",
            "MH_OWNER_PASSWORD": PASSWORD,
            "MH_FAKE_PORT": str(free_port()),
            "PYTHONPATH": str(PLUGIN),
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        with (self.home / "up.out").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mhsite.cli", "up"],
                cwd=REPOSITORY,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> str:
        """Wait until it says so, and return the URL."""

        def answer() -> "re.Match[str] | None":
            assert self.process is not None
            assert self.process.poll() is None, self.output()
            return re.search(r"mh is ready: (\S+)", self.output())

        return str(until(answer, READY_SECONDS, "ready")[1])

    def output(self) -> str:
        return (self.home / "up.out").read_text()

    def mh(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "mhsite.cli", *arguments],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def processes(self, *words: str) -> list[psutil.Process]:
        """The living processes of this home, but for `mh` itself, whose command line has ``words``."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = process.cmdline()
                if process.status() != psutil.STATUS_ZOMBIE and self._owns(process, line):
                    found.append((process, line))
        return [process for process, line in found if set(words) <= set(line)]

    def _owns(self, process: psutil.Process, line: list[str]) -> bool:
        return "mhsite.processes.child" in line and (
            process.environ().get("MH_HOME") == str(self.home)
        )

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**settings: str) -> Site:
        made.append(Site(tmp_path_factory.mktemp("up"), **settings))
        return made[-1]

    yield make
    for each in made:
        each.end()


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}health/ready", timeout=2).status_code == 200
    return False


@LONG
@pytest.mark.process
@pytest.mark.timeout(240)
def test_a_site_lives_through_its_day_and_leaves_nothing(site: Callable[..., Site]) -> None:
    here = site()
    here.up()
    url = here.ready()
    assert _answers(url)
    assert PASSWORD not in here.output(), "a given password is not printed"
    names = {process.cmdline()[-1] for process in here.processes()}
    assert {"supervisor", "web", "worker", "observer"} <= names

    second = here.mh("up")
    assert second.returncode == 1
    assert f"mh is already running at {url} (pid {here.process.pid})" in second.stderr

    port = int(url.rstrip("/").rpartition(":")[2])
    elsewhere = site(MH_PORT=str(port)).mh("up")
    assert elsewhere.returncode == 1
    assert re.search(rf"Port {port} is in use by pid \d+", elsewhere.stderr), elsewhere.stderr

    web = here.processes("web")[0]
    web.kill()
    until(lambda: [p for p in here.processes("web") if p.pid != web.pid], 30, "a new web server")
    until(lambda: _answers(url), 60, "an answer of the new web server")

    started = here.mh("backend", "start", "fake", "--json")
    assert started.returncode == 0, started.stdout + started.stderr
    assert json.loads(started.stdout)["running"] is True
    engine = json.loads(here.mh("backend", "list", "--json").stdout)["backends"]["fake"]["endpoint"]
    assert httpx.get(f"{engine}/health").status_code == 200

    here.process.send_signal(signal.SIGINT)
    assert here.process.wait(60) == 0, here.output()
    assert here.processes() == []
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{engine}/health")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    status = here.mh("status", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["site"] is None
    assert json.loads(status.stdout)["available"]["fake"]["state"] == "stopped"


@LONG
@pytest.mark.process
@pytest.mark.timeout(180)
def test_a_killed_site_takes_its_processes_along(site: Callable[..., Site]) -> None:
    here = site()
    here.up()
    until(lambda: here.processes("worker"), READY_SECONDS, "a worker")
    here.process.kill()
    here.process.wait()
    until(lambda: not here.processes(), 30, "no process of the site")


@pytest.mark.process
def test_a_port_in_use_is_an_error_before_anything_starts(site: Callable[..., Site]) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        here = site(MH_PORT=str(port))
        refused = here.mh("up")
    assert refused.returncode == 1
    assert f"Port {port} is in use by pid {os.getpid()}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (here.home / "mh.sqlite3").exists()


@pytest.mark.process
def test_down_says_when_there_is_nothing_to_stop(site: Callable[..., Site]) -> None:
    answer = site().mh("down", "--json")
    assert answer.returncode == 3
    assert json.loads(answer.stdout)["error"]["code"] == "site_not_running"
