"""A whole site on real sockets: fake engine, broker, web server, each a process, in a home of its own.

with live_site() as site:
    httpx.post(site.url + "/api/chat", headers=site.auth, json=…)
    site.engine.behave("cut-after=3")
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from backends.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE = REPOSITORY / "tests" / "fakes" / "fake_vllm.py"
MODEL = "fake-model"


def wait_until(check: Callable[[], object], *, seconds: float = 20.0, what: str = "it") -> Any:
    """Return the first true answer of ``check``; fail when none came within ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError, OSError):
            if answer := check():
                return answer
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


@dataclass
class FakeEngine:
    """A fake vLLM process."""

    port: int
    process: subprocess.Popen[bytes] = field(init=False)
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(trust_env=False, verify=False, timeout=10)
    )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *arguments: str) -> None:
        """Start it, also again after it died, and wait until it answers."""
        command = [sys.executable, str(FAKE), "--port", str(self.port)]
        names = ["--served-model-name", MODEL]
        self.process = subprocess.Popen(
            [*command, *names, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.state, seconds=60, what="the fake engine's start")

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"{self.endpoint}/_fake/state").json()
        return answer

    def behave(self, *behaviour: str, token_delay: float = 0.0, tokens: int = 0) -> None:
        wanted = {"behaviour": behaviour, "token_delay": token_delay, "tokens": tokens}
        self.client.post(f"{self.endpoint}/_fake/behaviour", json=wanted).raise_for_status()

    def await_running(self, count: int, *, seconds: float = 10) -> None:
        wait_until(
            lambda: self.state()["running"] == count, seconds=seconds, what=f"{count} running"
        )

    def await_abort(self, before: int, *, seconds: float = 1.0) -> None:
        """Fail unless one more request than ``before`` is aborted within ``seconds``."""
        wait_until(lambda: self.state()["aborted"] == before + 1, seconds=seconds, what="the abort")


@contextlib.contextmanager
def fake_engine(*arguments: str) -> Iterator[FakeEngine]:
    engine = FakeEngine(free_port())
    try:
        engine.start(*arguments)
        yield engine
    finally:
        engine.client.close()
        _end(engine.process)


@dataclass
class Site:
    """A running site."""

    url: str
    engine: FakeEngine
    tokens: dict[str, str]
    home: Path
    environment: dict[str, str]
    #: Process id of the web server.
    web: int

    @property
    def auth(self) -> dict[str, str]:
        return self.auth_of("standard")

    def auth_of(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    @property
    def websocket(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws/chat/"

    def answers(self) -> bool:
        return httpx.get(f"{self.url}/v1/models", trust_env=False, verify=False).status_code == 401

    def log(self) -> str:
        return (self.home / "web.log").read_text(errors="replace")

    def manage(self, code: str) -> str:
        """Run ``code`` in the site's Django, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
            cwd=REPOSITORY,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()


@contextlib.contextmanager
def live_site(asgi: str = "uvicorn", **environment: str) -> Iterator[Site]:
    """Start everything, yield it, end everything."""
    home = Path(tempfile.mkdtemp(prefix="mhl-"))
    port = free_port()
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MH_HOME": str(home),
        "MH_NODE": "testnode",
        "MH_HOST": "127.0.0.1",
        "MH_PORT": str(port),
        "MH_ASGI": asgi,
        "MH_LOG_LEVEL": "WARNING",
        # Tests of engines that fail again and again are not about the circuit breaker.
        "MH_BREAKER_FAILURES": "1000",
        **environment,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        engine = stack.enter_context(fake_engine())
        stack.enter_context(_child("broker", variables))
        seeded = _seed(engine, variables)
        log = stack.enter_context((home / "web.log").open("wb"))
        web = stack.enter_context(_child("web", variables, log))
        site = Site(
            url=f"http://127.0.0.1:{port}",
            engine=engine,
            tokens=seeded["tokens"],
            home=home,
            environment=variables,
            web=web.pid,
        )
        wait_until(site.answers, seconds=90, what=f"the start of {asgi} (see {home}/web.log)")
        yield site


@contextlib.contextmanager
def _child(
    name: str, environment: dict[str, str], log: Any = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "mhsite.processes.child", name],
        cwd=REPOSITORY,
        env=environment,
        stdout=log or subprocess.DEVNULL,
        stderr=log,
    )
    try:
        yield process
    finally:
        _end(process)


#: A seeded home of this process, and what its seed said: the next site begins with a copy of it.
_seeded: dict[str, Any] = {}
_KEPT: Final = ("mh.sqlite3", "secret_key")


def _seed(engine: FakeEngine, environment: dict[str, str]) -> dict[str, Any]:
    """Put users, tokens, a registry and the running backend into a home; run where its broker is up."""
    home = Path(environment["MH_HOME"])
    if "DATABASE_URL" in environment:
        return _seed_afresh(engine, environment)
    if not _seeded:
        said = _seed_afresh(engine, environment)
        _seeded.update({name: (home / name).read_bytes() for name in _KEPT}, said=said)
    else:
        for name in _KEPT:
            (home / name).touch(mode=0o600)
            (home / name).write_bytes(_seeded[name])
        with contextlib.closing(sqlite3.connect(home / "mh.sqlite3")) as database:
            database.execute("UPDATE backends_backend SET endpoint = ?", (engine.endpoint,))
            database.commit()
    said = _seeded["said"]
    return dict(said)


def _seed_afresh(engine: FakeEngine, environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.router.seed", engine.endpoint, MODEL],
        cwd=REPOSITORY,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
