"""A fake Ollama beside the fake vLLM of a live site: a second backend, serving, not the active one."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from backends.ports import free_port
from tests.fakes import fake_ollama
from tests.router.live import Site, wait_until

OLLAMA_MODEL = "smollm2:135m"
#: An entry that pins the context, and one that names a model Ollama has not.
LONG, MISSING = "long", "missing"
CONTEXT = 2048
ABLE = ("completion", "tools", "thinking", "vision", "embedding")

_ADD = """
from django.conf import settings
from django.utils import timezone
from backends.lifecycle import State
from backends.models import Backend
from router.models import ModelEntry
Backend.objects.update_or_create(name="ollama", defaults=dict(
    engine="ollama", node=settings.MH_NODE, state=State.READY, state_since=timezone.now(),
    endpoint={endpoint!r}, model={model!r}))
ModelEntry.objects.update_or_create(id={long!r}, defaults=dict(
    provider="ollama", model={model!r}, options={{"num_ctx": {context}, "keep_alive": "10m"}}))
"""
_REMOVE = """
from backends.models import Backend
from router.models import ModelEntry
ModelEntry.objects.filter(id={long!r}).delete()
Backend.objects.filter(name="ollama").delete()
"""


@dataclass
class FakeOllamaServer:
    """A fake Ollama process."""

    endpoint: str
    process: subprocess.Popen[bytes]
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(trust_env=False, verify=False, timeout=10)
    )

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"{self.endpoint}/_fake/state").json()
        return answer

    def habits(self, *words: str) -> None:
        self.client.post(f"{self.endpoint}/_fake/habits", json={"habits": words}).raise_for_status()

    def await_abort(self, before: int) -> None:
        """Fail unless one more request than ``before`` is aborted within a second."""
        wait_until(lambda: self.state()["aborted"] > before, seconds=1.0, what="the abort")


@contextlib.contextmanager
def fake_ollama_server() -> Iterator[FakeOllamaServer]:
    home = Path(tempfile.mkdtemp(prefix="mho-"))
    store = home / "models"
    fake_ollama.add_model(store, OLLAMA_MODEL, size=1000, capabilities=ABLE)
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(store),
    }
    process = subprocess.Popen(
        [sys.executable, fake_ollama.__file__, "serve"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = FakeOllamaServer(f"http://127.0.0.1:{port}", process)
    try:
        wait_until(server.state, seconds=60, what="the fake Ollama's start")
        yield server
    finally:
        server.client.close()
        process.terminate()
        process.wait(10)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def ollama_in(site: Site) -> Iterator[FakeOllamaServer]:
    """Put a serving Ollama into ``site``, and take it out again."""
    with fake_ollama_server() as server:
        names = {"model": OLLAMA_MODEL, "long": LONG, "context": CONTEXT}
        site.manage(_ADD.format(endpoint=server.endpoint, **names))
        try:
            yield server
        finally:
            site.manage(_REMOVE.format(**names))
