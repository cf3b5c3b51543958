"""``mh up`` with two fake engines, and what of it can be seen from outside: processes, ports, answers."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from backends import keeper, ports
from backends.ports import free_port
from mhsite.home import REPOSITORY

PLUGINS = [REPOSITORY / "tests" / "fakes" / name for name in ("plugin", "two_engines")]
NVML = REPOSITORY / "tests" / "fakes" / "nvml"
#: Two GPUs of 24 GiB; each engine wants the first one, and each of its processes holds some of it. What
#: is dead gives it back a moment later.
GPUS = {
    "gpus": [{"total": 24 << 30}, {"total": 24 << 30}],
    "uses": [{"backend": name, "gpu": 0, "memory": 2 << 30} for name in ("left", "right")],
    "release_seconds": 0.1,
}
PASSWORD = "pw-for-the-fault-tests"
BACKENDS = ("left", "right")
#: Set by tests/isolation.py for this process; a site is a stranger to it.
NOT_INHERITED = ("MH_HOME", "MH_NODE", "DJANGO_SETTINGS_MODULE", "PYTHONPATH", "REDIS_URL")
PARTS = ("broker", "worker", "observer", "web")
START_SECONDS = 90.0


def until(question: Callable[[], Any], seconds: float, what: str, every: float = 0.05) -> Any:
    """Return the first true answer; fail with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError, psutil.Error):
            if answer := question():
                return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(every)


@dataclass
class Seen:
    """The processes of one backend."""

    engines: list[psutil.Process] = field(default_factory=list)
    children: list[psutil.Process] = field(default_factory=list)
    keepers: list[psutil.Process] = field(default_factory=list)

    @property
    def all(self) -> list[psutil.Process]:
        return [*self.engines, *self.children, *self.keepers]


class WholeSite:
    """A running ``mh up`` of the tests."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.ports = {name: free_port() for name in BACKENDS}
        (home / "gpus.json").write_text(json.dumps(GPUS))
        (home / "tmp").mkdir()
        self.env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED} | {
            "MH_HOME": str(home),
            "MH_PORT": "0",
            "MH_NODE": "faults",
            "MH_DEMO": "0",
            "MH_OWNER_PASSWORD": PASSWORD,
            "MH_LEFT_PORT": str(self.ports["left"]),
            "MH_RIGHT_PORT": str(self.ports["right"]),
            "MH_FAKE_GPUS": "0",
            "FAKE_NVML": str(home / "gpus.json"),
            "PYTHONPATH": os.pathsep.join(map(str, [NVML, *PLUGINS])),
            # Inherited by whatever the site starts: so what is left over is known.
            "TMPDIR": str(home / "tmp"),
            **settings,
        }
        with (home / "up.out").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mhsite.cli", "up"],
                cwd=REPOSITORY,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.url = ""
        self.client = httpx.Client(timeout=90, trust_env=False, verify=False)

    def up(self) -> None:
        """Wait until it answers, and sign in."""

        def greeting() -> "re.Match[str] | None":
            assert self.process.poll() is None, self.output()
            return re.search(r"mh is ready: (\S+)/", self.output())

        self.url = until(greeting, START_SECONDS, "mh is ready")[1]
        self.client.base_url = httpx.URL(self.url)
        answer = self.client.post(
            "/api/auth/login", json={"username": "owner", "password": PASSWORD}
        )
        assert answer.status_code == 200, answer.text
        self.client.headers["X-CSRFToken"] = answer.json()["csrf_token"]

    def end(self) -> None:
        self.hold(None)
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def output(self) -> str:
        return (self.home / "up.out").read_text(errors="replace")

    # --- what it does -----------------------------------------------------------------------------

    def post(self, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body, params=query)
        assert answer.status_code in {200, 202}, f"{path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def post_created(self, path: str, body: Any) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 201, f"{path}: {answer.status_code} {answer.text}"
        return dict(answer.json())

    def ask(self, kind: str, name: str, wait: float = 0, **body: Any) -> dict[str, Any]:
        """Ask for an operation; return it, ended where ``wait`` seconds allow."""
        if kind == "switch":
            return self.post("/api/llm-backend/switch", {"backend": name, **body}, wait=wait)
        return self.post(f"/api/llm-backend/{name}/{kind}", body or None, wait=wait)

    def pull(self, name: str, model: str, wait: float = 0) -> dict[str, Any]:
        return self.post(f"/api/llm-backend/{name}/models", {"model": model}, wait=wait)

    def delete(self, name: str, model: str) -> dict[str, Any]:
        answer = self.client.delete(f"/api/llm-backend/{name}/models/{model}")
        assert answer.status_code in {200, 202}, answer.text
        return dict(answer.json())

    def add_person(self, username: str, role: str, password: str) -> None:
        """Add a user by the admin's own form."""
        form = {"username": username, "role": role, "password1": password, "password2": password}
        headers = {"Referer": f"{self.url}/"}
        made = self.client.post("/admin/accounts/user/add/", data=form, headers=headers)
        assert made.status_code == 302, made.text

    def configure(self, name: str, **options: Any) -> None:
        answer = self.client.patch(f"/api/llm-backend/{name}/config", json={"options": options})
        assert answer.status_code == 200, answer.text

    def status(self) -> dict[str, Any]:
        answer = self.client.get("/api/llm-backend/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def operation(self, operation_id: str, wait: float = 0) -> dict[str, Any]:
        answer = self.client.get(
            f"/api/llm-backend/operations/{operation_id}", params={"wait": wait}
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def chat(self, **more: Any) -> httpx.Response:
        """Chat, from any thread; not streamed unless asked for."""
        body = {"messages": [{"role": "user", "content": "hi"}], **more}
        headers = {"X-CSRFToken": self.client.headers["X-CSRFToken"]}
        cookies = dict(self.client.cookies)
        with httpx.Client(timeout=60, trust_env=False, verify=False, cookies=cookies) as client:
            return client.post(f"{self.url}/api/chat", json=body, headers=headers)

    def events(self, **filters: str) -> list[dict[str, Any]]:
        """Return the events chosen, oldest first."""
        answer = self.client.get("/api/audit/events", params={"limit": "500", **filters})
        assert answer.status_code == 200, answer.text
        return list(reversed(answer.json()["results"]))

    def calm(self) -> None:
        """Stop what runs, and set every option back."""
        self.hold(None)
        for name in BACKENDS:
            config = self.client.get(f"/api/llm-backend/{name}/config").json()
            self.configure(name, **dict.fromkeys(config["options"]))
            if self.status()["available"][name]["state"] not in {"stopped", "failed"}:
                stopped = self.ask("stop", name, wait=60)
                assert stopped["state"] == "succeeded", stopped

    def start(self, name: str = "left", **options: Any) -> None:
        """Have one backend serve, with these options."""
        done = self.ask("start", name, wait=60, options=options)
        assert done["state"] == "succeeded", done

    def serving(self) -> str | None:
        """Return the backend that serves."""
        available = self.status()["available"]
        return next((name for name in BACKENDS if available[name]["running"]), None)

    # --- where its worker waits -------------------------------------------------------------------

    def hold(self, point: dict[str, str] | None) -> None:
        """Have the worker wait at ``point`` of the next operation that comes there; None: let go."""
        (self.home / "held").unlink(missing_ok=True)
        if point is None:
            (self.home / "hold").unlink(missing_ok=True)
            return
        (self.home / "hold.new").write_text(json.dumps(point))
        (self.home / "hold.new").replace(self.home / "hold")

    def is_held(self) -> bool:
        return (self.home / "held").exists()

    # --- what runs --------------------------------------------------------------------------------

    def parts(self) -> dict[str, psutil.Process]:
        """Return the site's own processes by name."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if process.status() == psutil.STATUS_ZOMBIE or not line:
                    continue
                if "valkey" in line[0]:
                    found["broker"] = process
                elif line[-2:-1] == ["mhsite.processes.child"]:
                    found[line[-1]] = process
        return found

    def seen(self, name: str) -> Seen:
        """Return the processes of one backend."""
        return self.seen_all()[name]

    def seen_all(self) -> dict[str, Seen]:
        """Return the processes of every backend: by the marker in their environment, and the keepers."""
        found = {name: Seen() for name in (*BACKENDS, "vllm")}
        for pid in keeper.process_table():
            folder = Path(keeper.environment_value(pid, keeper.FOLDER_VARIABLE) or "/")
            if folder.parent.name not in found or folder.parents[1] != self.home / "engines":
                continue
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                is_child = "VLLM::EngineCore" in process.cmdline()[:1]
                seen = found[folder.parent.name]
                (seen.children if is_child else seen.engines).append(process)
        for name, seen in found.items():
            seen.keepers = list(self._keepers(name))
        return found

    def strays(self, known: dict[str, Seen]) -> list[str]:
        """Return the processes that the site started and that are none of its parts, nor an engine's."""
        expected = {process.pid for seen in known.values() for process in seen.all}
        expected |= {self.process.pid, *(process.pid for process in self.parts().values())}
        found = []
        for pid in keeper.process_table():
            tmp = keeper.environment_value(pid, "TMPDIR") or ""
            if pid not in expected and tmp.startswith(str(self.home)):
                with contextlib.suppress(psutil.Error):
                    found.append(f"{pid} {' '.join(psutil.Process(pid).cmdline())[:200]}")
        return found

    def _keepers(self, name: str) -> Iterator[psutil.Process]:
        for record in (self.home / "engines" / name).glob("*/keeper.json"):
            value = keeper.read_json(record) or {}
            if value.get("keeper") and keeper.is_alive(keeper.Process(*value["keeper"])):
                with contextlib.suppress(psutil.Error):
                    yield psutil.Process(value["keeper"][0])

    def lies(self) -> list[str]:
        """Return what the site says that is not so, and what is left of what it does not speak of."""
        status = self.status()
        if status["operation"]:
            return [f"an operation is open: {status['operation']}"]
        if (ready := self.client.get("/health/ready")).status_code != 200:
            return [ready.text]
        if missing := sorted(set(PARTS) - self.parts().keys()):
            return [f"not running: {', '.join(missing)}"]
        found: list[str] = []
        seen = self.seen_all()
        for name in BACKENDS:
            found += self._lies_about(name, status["available"][name], seen[name])
        return found or [f"left over: {line}" for line in self.strays(seen)]

    def _lies_about(self, name: str, said: dict[str, Any], seen: Seen) -> list[str]:
        is_open = ports.port_holder(self.ports[name], "127.0.0.1") is not None
        is_there = (len(seen.engines), len(seen.children), len(seen.keepers), is_open)
        expected = {"ready": (1, 1, 1, True), "stopped": (0, 0, 0, False)}
        expected["failed"] = expected["stopped"]
        if said["state"] not in expected:
            return [f"{name} is {said['state']}"]
        if is_there != expected[said["state"]] or said["running"] != (said["state"] == "ready"):
            return [
                f"{name} is said to be {said['state']}; engines, children, keepers, port: {is_there}"
            ]
        if said["state"] != "ready":
            return []
        health = httpx.get(
            f"http://127.0.0.1:{self.ports[name]}/health", trust_env=False, verify=False
        )
        return [] if health.status_code == 200 else [f"{name} answers {health.status_code}"]


@contextmanager
def whole_site(**settings: str) -> Iterator[WholeSite]:
    """Start a site in a home of its own; nothing of it is left afterwards."""
    home = Path(tempfile.mkdtemp(prefix="mhf-"))
    site = WholeSite(home, **settings)
    try:
        site.up()
        yield site
    finally:
        site.end()
        left = [process for name in BACKENDS for process in site.seen(name).all]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _keep_logs(home)
        shutil.rmtree(home, ignore_errors=True)
    assert not left, f"mh up left these behind: {left}"


def _keep_logs(home: Path) -> None:
    """Keep the logs of the last run, for whoever looks for the cause of a failure."""
    kept = REPOSITORY / "artifacts" / f"faults-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(OSError):
        shutil.copytree(home / "logs", kept, ignore_dangling_symlinks=True)
        shutil.copy(home / "up.out", kept)
