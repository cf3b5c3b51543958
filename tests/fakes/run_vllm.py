"""Run fake vLLMs for a test: one process each, on a free port, and nothing of them left at its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from backends import keeper
from backends.engines.base import Target

PROGRAM = Path(__file__).with_name("fake_vllm.py")
TIMEOUT = 20.0
MARKER = "fake_vllm/1"


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that has no event."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value


class FakeServer:
    """A running fake vLLM."""

    def __init__(self, folder: Path, words: tuple[str, ...], env: dict[str, str]) -> None:
        self.log = folder / f"fake-{os.urandom(3).hex()}.log"
        # Its own marker, as the keeper gives engines one: so that whatever it forks is found again.
        self.marker = f"{MARKER}-{os.urandom(4).hex()}"
        environment = {"PATH": os.defpath, keeper.MARKER_VARIABLE: self.marker}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), "--port", "0", *words],
                env=environment | env,
                stdout=output,
                stderr=output,
            )
        identity = keeper.identify(self.process.pid)
        assert identity
        self.identity = identity
        self.known: set[keeper.Process] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def target(self, **more: Any) -> Target:
        return Target(endpoint=self.url, served_model="fake-model", **more)

    def wait_ready(self) -> "FakeServer":
        """Wait until it says where it listens."""

        def said() -> int:
            assert self.process.poll() is None, self.text()[-2000:]
            for words in ("fake vLLM listens on ", "INFO:     Bound "):
                _, found, rest = self.text().partition(words)
                if found and "\n" in rest:
                    return int(rest.split()[0])
            return 0

        self.port = until(said)
        return self

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", trust_env=False, verify=False, timeout=TIMEOUT)

    def post(self, path: str, body: Any = None, timeout: float = TIMEOUT) -> httpx.Response:
        return httpx.post(
            f"{self.url}{path}", json=body, trust_env=False, verify=False, timeout=timeout
        )

    def chat(self, timeout: float = TIMEOUT, **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": "capital of France?"}]
        return self.post("/v1/chat/completions", {"messages": messages, **more}, timeout)

    def behave(self, *words: str) -> None:
        self.post("/_fake/behaviour", {"behaviour": words})

    def state(self) -> dict[str, Any]:
        return dict(self.get("/_fake/state").json())

    def tree(self) -> set[keeper.Process]:
        """Every living process of it, with those that were seen before."""
        self.known |= keeper.tree(self.marker, known={self.identity, *self.known})
        return {process for process in self.known if keeper.is_alive(process)}

    def end(self) -> None:
        for process in self.tree():
            keeper.send(process, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@contextmanager
def fakes(folder: Path) -> Iterator[Callable[..., FakeServer]]:
    """Give a function that starts a fake: ``start("--behaviour", "silent", FAKE_NVML="…")``."""
    started: list[FakeServer] = []

    def start(*words: str, ready: bool = True, **env: str) -> FakeServer:
        started.append(server := FakeServer(folder, words, env))
        return server.wait_ready() if ready else server

    try:
        yield start
    finally:
        for server in started:
            server.end()
