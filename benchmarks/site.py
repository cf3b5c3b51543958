"""A site for benchmarks: `mh up` in a temporary home, with the fake engine started behind it."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from backends.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "tests" / "fakes" / "plugin"
READY_SECONDS = 120


@dataclass
class Site:
    """Where the site and its engine answer, and the process that is measured."""

    url: str
    engine_url: str
    token: str
    web: psutil.Process
    home: Path

    def usage_records(self) -> int:
        """Records of usage that are in the database."""
        with contextlib.closing(sqlite3.connect(self.home / "mh.sqlite3")) as database:
            return int(database.execute("SELECT COUNT(*) FROM router_usagerecord").fetchone()[0])

    def cpu_seconds(self) -> float:
        """CPU time the web server has used so far, with that of its own processes."""
        family = [self.web, *self.web.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in family)


@contextmanager
def up(
    more: dict[str, str],
) -> Iterator[tuple[str, Path, dict[str, str], "subprocess.Popen[bytes]"]]:
    """Bring a site up in a home of its own; yield its URL, home, environment and process."""
    with tempfile.TemporaryDirectory(prefix="mhb-") as home:
        env = {
            **os.environ,
            "MH_HOME": home,
            "MH_PORT": "0",
            "MH_DEMO": "0",
            "MH_OWNER_PASSWORD": "benchmark-password",
            "MH_LOG_LEVEL": "WARNING",
            **more,
        }
        output = Path(home) / "up.out"
        with output.open("wb") as out:
            process = subprocess.Popen(_mh("up"), cwd=ROOT, env=env, stdout=out, stderr=out)
        try:
            yield _wait_ready(process, output).rstrip("/"), Path(home), env, process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@contextmanager
def running(server: str, engine_arguments: str, program: Path | None = None) -> Iterator[Site]:
    """Bring the site up on ``server`` and start the fake engine; take all of it down at the end.

    ``program`` runs instead of ``tests/fakes/fake_vllm.py``, with the same arguments.
    """
    more = {
        "MH_ASGI": server,
        "MH_FAKE_PORT": str(free_port()),
        "MH_FAKE_ARGS": engine_arguments,
        "MH_FAKE_PROGRAM": str(program or ""),
        "PYTHONPATH": os.pathsep.join((str(PLUGIN), str(ROOT))),
    }
    with up(more) as (url, home, env, process):
        call(env, "backend", "start", "fake", "--json")
        token = call(env, "token", "create", "--name", "benchmark", "--json")["token"]
        engine = f"http://127.0.0.1:{env['MH_FAKE_PORT']}"
        yield Site(url, engine, str(token), _web(process.pid), home)


def _mh(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mhsite.cli", *arguments]


def call(env: dict[str, str], *arguments: str) -> dict[str, object]:
    ended = subprocess.run(
        _mh(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise SystemExit(f"mh {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
    return dict(json.loads(ended.stdout))


def _wait_ready(up: "subprocess.Popen[bytes]", output: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while (found := re.search(r"mh is ready: (\S+)", output.read_text())) is None:
        if up.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the site did not come up:\n{output.read_text()}")
        time.sleep(0.1)
    return found[1]


def _web(up: int) -> psutil.Process:
    for process in psutil.Process(up).children(recursive=True):
        if process.cmdline()[-2:] == ["mhsite.processes.child", "web"]:
            return process
    raise SystemExit("the site has no web server")


@contextmanager
def engine_process(program: Path, *arguments: str) -> Iterator[str]:
    """Run an engine by itself; yield its URL."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(program), "--port", str(port), *arguments], stdout=subprocess.DEVNULL
    )
    try:
        _wait_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _wait_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit("the engine did not come up")
