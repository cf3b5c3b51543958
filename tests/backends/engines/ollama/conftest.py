"""Fake Ollama servers: real processes, each with a models folder of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backends.engines.base import Target
from backends.ports import free_port
from tests.fakes import fake_ollama

FAKE = Path(fake_ollama.__file__)
MODEL = "smollm2:135m"
TIMEOUT = 20.0


def until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> Any:
    """Wait for something that has no event."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return value


def lives(pid: int) -> bool:
    """Say whether ``pid`` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Server:
    """A running fake."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    store: Path
    log: Path

    @property
    def target(self) -> Target:
        return Target(endpoint=str(self.client.base_url).rstrip("/"), served_model=MODEL)

    def state(self) -> dict[str, Any]:
        return dict(self.client.get("/_fake/state").json())

    def habits(self, *words: str) -> None:
        self.client.post("/_fake/habits", json={"habits": words})

    def loaded(self) -> list[str]:
        return [model["name"] for model in self.client.get("/api/ps").json()["models"]]

    def kill_orphans(self) -> None:
        """A server that was killed leaves its runners."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "--model" in command and f"{self.store}/" in " ".join(command):
                    process.kill()

    def runner(self, model: str = MODEL) -> int:
        return int(self.state()["runners"][model])


Serve = Callable[..., Server]


class Pool:
    """Servers that tests use one after the other: starting one takes half a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: dict[Any, list[Server]] = {}
        self._all: list[Server] = []

    def take(self, version: str, variables: dict[str, str]) -> Server:
        idle = self._idle.setdefault((version, tuple(sorted(variables.items()))), [])
        server = idle.pop() if idle else self._start(version, variables)
        shutil.rmtree(server.store, ignore_errors=True)
        fake_ollama.add_model(server.store, MODEL)
        return server

    def give_back(self, server: Server, version: str, variables: dict[str, str]) -> None:
        try:
            server.client.post("/_fake/reset")
        except httpx.HTTPError:  # the test ended it, or has just
            server.process.kill()
            server.process.wait()
            server.kill_orphans()
        else:
            self._idle[version, tuple(sorted(variables.items()))].append(server)

    def _start(self, version: str, variables: dict[str, str]) -> Server:
        number, port = len(self._all), free_port()
        store, log = self._folder / f"models{number}", self._folder / f"log{number}"
        environment = {
            "PATH": os.defpath,
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(store),
            "FAKE_OLLAMA_VERSION": version,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(FAKE), "serve"], env=environment | variables, stderr=output
            )
        base = f"http://127.0.0.1:{port}"
        client = httpx.Client(base_url=base, trust_env=False, verify=False, timeout=TIMEOUT)
        self._all.append(server := Server(process, client, store, log))
        until(lambda: b"Listening on" in log.read_bytes() or process.poll() is not None)
        return server

    def close(self) -> None:
        for server in self._all:
            if server.process.poll() is None:
                server.client.post("/_fake/reset")
                server.process.kill()
            server.process.wait()
            server.client.close()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    made = Pool(tmp_path_factory.mktemp("ollama"))
    yield made
    made.close()


@pytest.fixture
def serve(pool: Pool) -> Iterator[Serve]:
    """Have a fake: ``serve("load=1", version="0.24.0", OLLAMA_NUM_PARALLEL="2")``."""
    taken: list[tuple[Server, str, dict[str, str]]] = []

    def start(*habits: str, version: str = "0.32.15", **variables: str) -> Server:
        server = pool.take(version, variables)
        taken.append((server, version, variables))
        server.habits(*habits)
        return server

    yield start
    for server, version, variables in taken:
        pool.give_back(server, version, variables)
