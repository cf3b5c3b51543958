"""How long do starts and stops of real vLLM take, ours and without us?

In one run, interleaved so that a busy machine is busy for all of them: a plain ``python -m vllm…``, our cold
start, our start from a standby, a stop of the idle engine. Every start is timed to the first token of a
chat: the plain one from its process on, by a client that looks every 20 ms; ours from the POST on, by a chat
through the site that is sent when ``/ws/status/`` says *ready*. Medians of ``MH_BENCH_ROUNDS`` (5) rounds.
"""

import json
import os
import platform
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from websockets.sync.client import connect

from backends.ports import free_port
from benchmarks.load import table
from benchmarks.site import call, up

ROUNDS = int(os.environ.get("MH_BENCH_ROUNDS", "5"))
MODEL = "SmolLM2-135M-Instruct"
RESULT = Path(__file__).parent / "results" / "lifecycle.json"
PATIENCE = 600.0
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
RIGHT = "The capital of France is Paris."


@dataclass
class Times:
    """What every round measured, in seconds."""

    plain: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    standby: list[float] = field(default_factory=list)
    stop: list[float] = field(default_factory=list)
    spawn: list[float] = field(default_factory=list)
    noticed: list[float] = field(default_factory=list)
    frame: list[float] = field(default_factory=list)


@dataclass
class Site:
    """The site under measurement."""

    url: str
    home: Path
    token: str
    port: int

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(
            base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False
        )

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.http.post(f"/api/llm-backend/vllm/{path}", json=body or {})
        if answer.is_error:
            raise SystemExit(f"{path}: {answer.status_code} {answer.text}")
        return dict(answer.json())

    def configure(self, **options: Any) -> None:
        answer = self.http.patch("/api/llm-backend/vllm/config", json={"options": options})
        if answer.is_error:
            raise SystemExit(f"config: {answer.status_code} {answer.text}")

    def backend(self) -> dict[str, Any]:
        return dict(self.http.get("/api/llm-backend/status").json()["available"]["vllm"])


# A plain start.


def plain_command(port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command mh would start if it had no launcher, with its environment."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mhsite.settings")
    django.setup()
    from backends.engines.vllm import VllmEngine, VllmOptions
    from backends.supervisor import _clean_environment

    launch = VllmEngine().launch(VllmOptions(model=MODEL, port=port))
    plain = launch.plain
    if plain is None:
        raise SystemExit("this vLLM is started plainly by mh too: there is nothing to compare")
    return list(plain.argv), _clean_environment() | plain.env


def plain_start(argv: list[str], env: dict[str, str], port: int) -> float:
    """Return the seconds from a plain start to the first token; stop it again."""
    with tempfile.TemporaryDirectory(prefix="mhb-") as folder:
        log = Path(folder) / "log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                env=env | {"TMPDIR": folder},
                stdout=output,
                stderr=output,
                cwd=folder,
                start_new_session=True,
            )
        try:
            while not is_healthy(port):
                if process.poll() is not None:
                    raise SystemExit(log.read_text(errors="replace")[-2000:])
                time.sleep(0.02)
            ask(f"http://127.0.0.1:{port}", {}, max_tokens=1)
            return time.monotonic() - began
        finally:
            children = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
            psutil.wait_procs(children, timeout=30)


def is_healthy(port: int) -> bool:
    """Ask without a client's weight: what looks often must not slow down what it looks at."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
            link.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b" 200 " in link.recv(64)
    except OSError:
        return False


def ask(url: str, headers: dict[str, str], **more: Any) -> str:
    """Ask the question and return the answer."""
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0, **more}
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120, trust_env=False
    )
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


# Ours.


class Watch:
    """Looks at what happens, beside the client that waits for it."""

    def __init__(self, look: Callable[[], float | None], *, every: float) -> None:
        self.found: float | None = None
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(look,), daemon=True)
        self._thread.start()

    def _run(self, look: Callable[[], float | None]) -> None:
        while self.found is None and not self._stopped.wait(self._every):
            self.found = look()

    def stop(self) -> float | None:
        self._stopped.set()
        self._thread.join()
        return self.found


def spawned(site: Site, known: set[Path]) -> float | None:
    """Return when the keeper of a new start said that the engine's process exists (time.time())."""
    for record in (site.home / "engines" / "vllm").glob("*/keeper.json"):
        if record.parent not in known:
            try:
                if json.loads(record.read_text())["engine"]:
                    return time.time()
            except (OSError, ValueError, KeyError):
                return None
    return None


def healthy_since(port: int) -> float | None:
    return time.time() if is_healthy(port) else None


def our_start(site: Site, times: Times, *, cold: bool) -> float:
    """Start through the site; return the seconds from the POST to the first token of a chat."""
    known = set((site.home / "engines" / "vllm").glob("*"))
    headers = {"Authorization": f"Bearer {site.token}"}
    with connect(
        site.url.replace("http", "ws") + "/ws/status/", additional_headers=headers, max_size=None
    ) as status:
        watch = Watch(lambda: spawned(site, known), every=0.002)
        health = Watch(lambda: healthy_since(site.port), every=0.01)
        posted, began = time.time(), time.monotonic()
        operation = site.post("start")
        frame_at, frame = ready_frame(status)
    ask(site.url, headers, max_tokens=1)
    seconds = time.monotonic() - began
    spawned_at, healthy_at = watch.stop(), health.stop()
    times.frame.append(frame_at - moment(frame["available"]["vllm"]["since"]))
    if cold and spawned_at:
        times.spawn.append(spawned_at - posted)
    ended = wait_ended(site, operation["id"])
    warm = next(step for step in ended["steps"] if step["name"] == "warm")
    if healthy_at:
        times.noticed.append(moment(warm["started_at"]) - healthy_at)
    answer = ask(site.url, headers, max_tokens=20)
    if answer != RIGHT:
        raise SystemExit(f"a wrong answer: {answer}")
    return seconds


def ready_frame(status: Any) -> tuple[float, dict[str, Any]]:
    """Return the status frame that says *ready*, and when it came."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        frame = json.loads(status.recv(timeout=PATIENCE))
        if frame["type"] == "operation" and frame["operation"]["error"]:
            raise SystemExit(f"the start failed: {frame['operation']['error']}")
        if frame["type"] == "status" and frame["available"]["vllm"]["state"] == "ready":
            return time.time(), frame
    raise SystemExit("it was not ready in time")


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def wait_ended(site: Site, operation: str) -> dict[str, Any]:
    while True:
        row = site.http.get(f"/api/llm-backend/operations/{operation}").json()
        if row["finished_at"]:
            return dict(row)
        time.sleep(0.02)


def stop(site: Site) -> float:
    """Stop the idle engine; return the seconds from the POST until it is stopped, verified by the site."""
    began = time.monotonic()
    row = site.post("stop?wait=120")
    if row["state"] != "succeeded":
        raise SystemExit(f"the stop failed: {row}")
    return time.monotonic() - began


def standby_ready(site: Site) -> int:
    """Wait until the standby is warm; return its memory in bytes."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        seen = site.backend().get("standby") or {}
        if seen.get("state") == "ready":
            return int(seen["memory"])
        time.sleep(0.25)
    raise SystemExit("the standby was not ready in time")


@contextmanager
def real_site() -> Iterator[Site]:
    """Bring the site up with vLLM and the demo model."""
    port = free_port()
    with up({"MH_DEMO": "0", "MH_LOG_LEVEL": "WARNING"}) as (url, home, env, _process):
        token = str(call(env, "token", "create", "--name", "benchmark", "--json")["token"])
        site = Site(url, home, token, port)
        site.configure(model=MODEL, port=port)
        yield site


def measure(site: Site, times: Times, before: dict[str, Any]) -> None:
    """Take all rounds."""
    argv, env = plain_command(site.port)
    for number in range(1, ROUNDS + 1):
        times.plain.append(plain_start(argv, env, site.port))
        times.cold.append(our_start(site, times, cold=True))
        site.configure(standby=True)
        times.stop.append(stop(site))
        memory = standby_ready(site)
        times.standby.append(our_start(site, times, cold=False))
        site.configure(standby=False)
        times.stop.append(stop(site))
        print(
            f"round {number}: plain {times.plain[-1]:.1f} s, cold {times.cold[-1]:.1f} s, "
            f"standby {times.standby[-1]:.1f} s, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        save(times, memory, before)


def rows(times: Times) -> list[tuple[str, float, str, str, bool | None]]:
    """Return what is printed and kept: name, median in seconds, ratio to plain, target, met."""
    plain = median(times.plain)

    def start(name: str, values: list[float], target: float) -> Any:
        ratio = median(values) / plain
        return name, median(values), f"{ratio:.2f}", f"≤ {target} of plain", ratio <= target

    def delay(name: str, values: list[float], target: float) -> Any:
        return name, median(values), "", f"≤ {target} s", median(values) <= target

    return [
        ("plain python -m vllm…, to the first token", plain, "1.00", "", None),
        start("our cold start", times.cold, 0.6),
        start("our start with standby", times.standby, 0.25),
        ("stop when idle, verified", median(times.stop), "", "", None),
        delay("POST to spawned process", times.spawn, 0.3),
        delay("health 200 to noticed by us", times.noticed, 0.05),
        delay("ready to /ws/status/ frame", times.frame, 0.25),
    ]


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "gpu": None,
        "load": [round(value, 2) for value in os.getloadavg()],
    }


def vllm_version() -> str:
    from backends.engines.vllm import VllmEngine

    return VllmEngine().detect().version


def save(times: Times, memory: int, before: dict[str, Any]) -> None:
    """Write what was measured so far: a run that is interrupted is not lost."""
    found = rows(times)
    result = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"before": before, "after": machine()},
        "engine": {"name": "vllm", "version": vllm_version(), "build": "cpu", "model": MODEL},
        "python": platform.python_version(),
        "rounds": len(times.plain),
        "standby_memory_bytes": memory,
        "seconds": {
            name: [round(value, 3) for value in values] for name, values in vars(times).items()
        },
        "results": [
            {
                "what": name,
                "median_seconds": round(seconds, 3),
                "ratio_to_plain": float(ratio) if ratio else None,
                "target": target or None,
                "met": met,
            }
            for name, seconds, ratio, target, met in found
        ],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    times = Times()
    before = machine()
    with real_site() as site:
        measure(site, times, before)
    words = {True: "met", False: "MISSED", None: ""}
    lines = [
        (name, f"{seconds:.3f} s", ratio, target, words[met])
        for name, seconds, ratio, target, met in rows(times)
    ]
    print(table([("", "median", "of plain", "target", ""), *lines]))


if __name__ == "__main__":
    main()
