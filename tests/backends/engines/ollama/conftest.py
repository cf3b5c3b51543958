"""Fake Ollama servers: real processes, each with a models folder of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.engines.base import Target
from tests.fakes import fake_ollama

FAKE = Path(fake_ollama.__file__)
MODEL = "smollm2:135m"
TIMEOUT = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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

    def runner(self, model: str = MODEL) -> int:
        return int(self.state()["runners"][model])


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start fakes: ``serve("load=1", version="0.24.0", OLLAMA_NUM_PARALLEL="2")``."""
    servers: list[Server] = []

    def start(*habits: str, version: str = "0.32.15", **variables: str) -> Server:
        store = tmp_path / f"models{len(servers)}"
        fake_ollama.add_model(store, MODEL)
        port = free_port()
        environment = {
            "PATH": os.defpath,
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(store),
            "FAKE_OLLAMA_VERSION": version,
            "FAKE_OLLAMA_HABITS": ",".join(habits),
        }
        log = tmp_path / f"log{len(servers)}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(FAKE), "serve"],
                env=environment | variables,
                stderr=output,
            )
        base = f"http://127.0.0.1:{port}"
        client = httpx.Client(base_url=base, trust_env=False, timeout=TIMEOUT)
        servers.append(server := Server(process, client, store, log))
        until(lambda: b"Listening on" in log.read_bytes() or process.poll() is not None)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            for pid in server.state()["runners"].values():
                os.kill(pid, signal.SIGKILL)
            server.process.kill()
        server.process.wait()
        server.client.close()
