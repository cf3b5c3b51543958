"""A whole site, as a person starts it: ``mh up`` in a home of its own, on ports of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from backends.ports import free_port
from mhsite.home import REPOSITORY

OWNER = "owner"
PASSWORD = "e2e-correct-horse-battery"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
DEMO_MODEL = "SmolLM2-135M-Instruct"
#: Seconds; a start takes 30 on a quiet machine, and machines are not always quiet.
START_SECONDS = 300
#: Set by tests/isolation.py for this process; the site is a stranger to it.
_NOT_INHERITED = ("MH_HOME", "MH_NODE", "DJANGO_SETTINGS_MODULE", "PYTHONPATH")


def artifacts() -> Path:
    """Where screenshots and logs of the last run are kept; ignored by git."""
    folder = REPOSITORY / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


def wait_for(question: Callable[[], Any], *, seconds: float, what: str, every: float = 0.05) -> Any:
    """Return the first true answer; fail with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)


@dataclass
class Site:
    """A running ``mh up`` and the ways into it."""

    home: Path
    port: int
    engine_port: int
    env: dict[str, str]
    process: "subprocess.Popen[bytes]"
    owner: httpx.Client = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sign_in(self, username: str = OWNER, password: str = PASSWORD) -> httpx.Client:
        """Sign in over HTTP as a script does, and return the client with its session."""
        client = httpx.Client(base_url=self.url, timeout=START_SECONDS + 60)
        answer = client.post("/api/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRFToken"] = answer.json()["csrf_token"]
        return client

    def cookies(self) -> str:
        return "; ".join(f"{c.name}={c.value}" for c in self.owner.cookies.jar)

    def mh(self, *arguments: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run ``mh`` on this site, as a person in a terminal does."""
        return subprocess.run(
            [sys.executable, "-m", "mhsite.cli", *arguments],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def vllm(self) -> dict[str, Any]:
        answer = self.owner.get("/api/llm-backend/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["available"]["vllm"])

    def operate(self, action: str, wait: float = START_SECONDS) -> dict[str, Any]:
        """POST start, stop or restart; return the operation, ended where ``wait`` allows."""
        answer = self.owner.post(f"/api/llm-backend/vllm/{action}", params={"wait": wait})
        assert answer.status_code in {200, 202}, answer.text
        return dict(answer.json())

    def ready(self) -> None:
        """Make sure that vLLM runs. Asks for a start only where it does not."""
        if self.vllm()["state"] == "ready":
            return
        operation = self.operate("start")
        assert operation["state"] == "succeeded", operation
        assert self.vllm()["state"] == "ready"

    def stopped(self) -> None:
        """Make sure that vLLM does not run."""
        if self.vllm()["state"] in {"stopped", "failed"}:
            return
        operation = self.operate("stop", wait=60)
        assert operation["state"] == "succeeded", operation
        assert not self.engine_processes()

    def engine_processes(self) -> list[psutil.Process]:
        """Every living process of this site's engine, by the marker in its environment."""
        return [p for p in psutil.process_iter() if _is_of(p, str(self.home / "engines"))]

    def api_server(self) -> psutil.Process:
        """The engine's own first process: the one that holds the port."""
        return next(
            process
            for process in self.engine_processes()
            if any("api_server" in part for part in process.cmdline())
            and f"--port={self.engine_port}" in process.cmdline()
        )

    def child(self, name: str) -> psutil.Process:
        """One process of the site: ``worker``, ``web``, ``observer``."""
        return next(
            process
            for process in psutil.Process(self.process.pid).children(recursive=True)
            if process.cmdline()[-2:] == ["mhsite.processes.child", name]
        )

    def events(self, **filters: str) -> list[dict[str, Any]]:
        answer = self.owner.get("/api/audit/events", params={"limit": "200", **filters})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])

    def log(self) -> str:
        return (self.home / "up.log").read_text(errors="replace")[-6000:]


def _is_of(process: psutil.Process, engines: str) -> bool:
    """Whether ``process`` was started under ``engines``: its temporary folder is there, by inheritance."""
    try:
        return process.environ().get("TMPDIR", "").startswith(engines)
    except psutil.Error:
        return False


@contextmanager
def running_site(home: Path) -> Iterator[Site]:
    """Start a site, give it an engine port of its own and the demo model, and end it with all it started."""
    port, engine_port = free_port(), free_port()
    env = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    env |= {
        "MH_HOME": str(home),
        "MH_PORT": str(port),
        "MH_OWNER_PASSWORD": PASSWORD,
        "MH_NODE": "e2e",
    }
    command = [sys.executable, "-m", "mhsite.cli", "up"]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=log, stderr=subprocess.STDOUT
        )
    site = Site(home=home, port=port, engine_port=engine_port, env=env, process=process)
    try:
        wait_for(lambda: _answers(site), seconds=120, what=f"mh up answers\n{site.log()}")
        site.owner = site.sign_in()
        options = {"port": engine_port, "model": DEMO_MODEL}
        changed = site.owner.patch("/api/llm-backend/vllm/config", json={"options": options})
        assert changed.status_code == 200, changed.text
        yield site
    finally:
        _end(site)


def _answers(site: Site) -> bool:
    assert site.process.poll() is None, f"mh up ended\n{site.log()}"
    try:
        return httpx.get(f"{site.url}/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _end(site: Site) -> None:
    site.process.send_signal(signal.SIGINT)
    try:
        site.process.wait(90)
    except subprocess.TimeoutExpired:
        for process in psutil.Process(site.process.pid).children(recursive=True):
            process.kill()
        site.process.kill()
        site.process.wait()
        raise
    left = site.engine_processes()
    for process in left:
        process.kill()
    assert not left, f"mh up left engine processes behind: {left}\n{site.log()}"


def frames_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a server-sent event stream."""
    return [
        json.loads(line.removeprefix("data: "))
        for line in response.iter_lines()
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
