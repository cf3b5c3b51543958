"""Engines that the site did not start: fakes as plain child processes of the test, and a fake systemd."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fakes import fake_ollama, fake_vllm

MODEL = "smollm2:135m"
#: Stands in for ``systemctl``: one unit per file of its folder, started and stopped for real.
_SYSTEMCTL = """#!{python}
import json, os, signal, subprocess, sys, time
from backends.ports import free_port
folder = {folder!r}
words = [word for word in sys.argv[1:] if not word.startswith("-")]
flags = [word for word in sys.argv[1:] if word.startswith("-")]
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
verb, name = words
path = os.path.join(folder, name + ".json")
if "--user" in flags or not os.path.exists(path):
    if verb == "show":
        print("LoadState=not-found\\nActiveState=inactive\\nUnitFileState=\\nMainPID=0")
        sys.exit(0)
    print("Unit " + name + " not loaded.", file=sys.stderr)
    sys.exit(5)
unit = json.load(open(path))
def alive(pid):
    try:
        return bool(pid) and open("/proc/%d/stat" % pid).read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
if not alive(unit["pid"]):
    unit["pid"] = 0
if verb == "show":
    active = "active" if unit["pid"] else "inactive"
    print("LoadState=loaded\\nActiveState=%s\\nUnitFileState=%s\\nMainPID=%d" % (active, unit["state"], unit["pid"]))
    sys.exit(0)
if unit["refuses"]:
    print("Failed to %s %s: Interactive authentication required." % (verb, name), file=sys.stderr)
    sys.exit(1)
if verb == "start" and not unit["pid"]:
    made = subprocess.Popen(unit["argv"], env=unit["env"], stdin=-3, stdout=-3, stderr=-3, start_new_session=True)
    unit["pid"] = unit["made"] = made.pid
if verb == "stop" and unit["pid"]:
    os.kill(unit["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 20
    while alive(unit["pid"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    unit["pid"] = 0
json.dump(unit, open(path, "w"))
"""


class Foreign:
    """Starts engines as somebody else would, and ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "models"
        fake_ollama.add_model(self.store, MODEL)
        self._started: list[subprocess.Popen[bytes]] = []

    def vllm(
        self, port: int, model: str = "fake-model", *arguments: str
    ) -> subprocess.Popen[bytes]:
        """Start a vLLM in somebody's terminal; return once it answers."""
        words = ["--port", str(port), "--served-model-name", model, *arguments]
        made = self._start([sys.executable, str(fake_vllm.__file__), *words], {})
        _until_answers(f"http://127.0.0.1:{port}/health", made)
        return made

    def ollama(self, port: int) -> subprocess.Popen[bytes]:
        """Start an Ollama in somebody's terminal; return once it answers."""
        made = self._start(
            [sys.executable, str(fake_ollama.__file__), "serve"], self.ollama_env(port)
        )
        _until_answers(f"http://127.0.0.1:{port}/api/version", made)
        return made

    def ollama_env(self, port: int) -> dict[str, str]:
        return {
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(self.store),
            "PATH": os.defpath,
        }

    def stranger(self, port: int) -> subprocess.Popen[bytes]:
        """Start a web server that is no engine; return once it answers."""
        made = self._start(
            [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], {}
        )
        _until_answers(f"http://127.0.0.1:{port}/", made)
        return made

    def _start(self, argv: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MH_")}
        made = subprocess.Popen(
            argv, env=kept | env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._started.append(made)
        return made

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait(10)
                for child in children:
                    if child.is_running():
                        child.kill()


class Systemd:
    """A fake ``systemctl`` on ``PATH`` with units of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "bin" / "systemctl"
        program.parent.mkdir(parents=True)
        program.write_text(_SYSTEMCTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def unit(
        self,
        name: str,
        argv: list[str],
        env: dict[str, str],
        *,
        pid: int = 0,
        refuses: bool = False,
        state: str = "enabled",
    ) -> None:
        unit = {"argv": argv, "env": env, "pid": pid, "refuses": refuses, "state": state}
        self._path(name).write_text(json.dumps(unit))

    def ollama(self, foreign: Foreign, port: int, **facts: object) -> None:
        """Make the service Ollama's installer makes; it does not run unless ``pid`` says so."""
        argv = [sys.executable, str(fake_ollama.__file__), "serve"]
        self.unit("ollama.service", argv, foreign.ollama_env(port), **facts)  # type: ignore[arg-type]

    def pid(self, name: str = "ollama.service") -> int:
        return int(json.loads(self._path(name).read_text())["pid"])

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> list[str]:
        return [word for call in self.calls() for word in call if word in {"start", "stop"}]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def end(self) -> None:
        for path in self.folder.glob("*.json"):
            pid = json.loads(path.read_text()).get("made")  # and none that a test only names
            if pid and psutil.pid_exists(pid):
                for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                    process.kill()


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Foreign]:
    made = Foreign(tmp_path / "foreign")
    yield made
    made.end()


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", f"{made.folder / 'bin'}:{os.environ['PATH']}")
    yield made
    made.end()


def _until_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    until(lambda: process.poll() is not None or _answers(url), "the engine answers")
    assert process.poll() is None


def _answers(url: str) -> bool:
    try:
        return (
            httpx.get(url, trust_env=False, verify=False, timeout=2).status_code == httpx.codes.OK
        )
    except httpx.HTTPError:
        return False


def until(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def lives(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
