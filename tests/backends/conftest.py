"""A backend that runs the fake engine: real processes under the real keeper."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connections

from backends import selectors, standby, supervisor
from backends.engines import registry
from backends.models import Backend, Operation
from backends.operations.runner import run_operations
from backends.ports import free_port
from tests.backends.foreign import foreign, systemd
from tests.backends.nvml import nvml
from tests.fakes import fake_ollama
from tests.fakes.fake_hub import MODEL, FakeHub

#: Fixtures of other modules.
__all__ = ["foreign", "nvml", "systemd"]
OLLAMA_MODEL = "smollm2:135m"


@dataclass
class FakeBackend:
    """The row, and how to run what was asked of it."""

    name: str
    port: int

    @property
    def row(self) -> Backend:
        return Backend.objects.get(name=self.name)

    def run(self) -> None:
        """Be the worker."""
        run_operations(settings.MH_NODE)

    def run_in_thread(self) -> threading.Thread:
        """Be the worker, beside the test."""

        def work() -> None:
            try:
                run_operations(settings.MH_NODE)
            finally:
                connections.close_all()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def pids(self) -> tuple[int, ...]:
        return tuple(
            pid
            for inst in supervisor.find(settings.MH_HOME, self.name)
            for pid in supervisor.tree(inst)
        )


@pytest.fixture
def fake(
    transactional_db: None,
    clean_broker: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., FakeBackend]]:
    """Make the backend ``fake``, or ``fake2``, with options; what they started is stopped at the end."""
    from mh_fake_engine import FakeEngine, OtherFakeEngine
    from mh_fake_warm import WarmEngine

    fakes = (FakeEngine(), OtherFakeEngine(), WarmEngine())
    engines = {**registry.engines(), **{engine.name: engine for engine in fakes}}
    monkeypatch.setattr(registry, "engines", lambda: engines)

    def make(name: str = "fake", /, **options: Any) -> FakeBackend:
        port = options.setdefault("port", free_port())
        Backend.objects.create(
            name=name,
            engine=name,
            node=settings.MH_NODE,
            options=options,
            state_since=selectors.now(),
        )
        return FakeBackend(name=name, port=port)

    yield make
    Operation.objects.update(cancel_requested=True)
    for name in ("fake", "fake2", "warm"):
        standby.discard_all(settings.MH_HOME, name)
        for inst in supervisor.find(settings.MH_HOME, name):
            supervisor.stop(inst, grace=0.2)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A Hub that has ``lab/tiny``."""
    with FakeHub().running() as made:
        made.add(MODEL)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        yield made


@pytest.fixture
def ollama(
    transactional_db: None,
    clean_broker: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Callable[..., Backend]]:
    """Make the backend ``ollama`` that runs the fake one, with habits and options; it is stopped at the end."""

    def make(*habits: str, **options: Any) -> Backend:
        store = tmp_path / "models"
        fake_ollama.add_model(store, OLLAMA_MODEL)
        binary = tmp_path / "program" / "ollama"
        fake_ollama.make_binary(binary, FAKE_OLLAMA_HABITS=",".join(habits))
        monkeypatch.setenv("MH_OLLAMA_BIN", str(binary))
        values = {
            "defaultModel": OLLAMA_MODEL,
            "modelsDir": str(store),
            "port": free_port(),
            **options,
        }
        return Backend.objects.create(
            name="ollama",
            engine="ollama",
            node=settings.MH_NODE,
            options=values,
            state_since=selectors.now(),
        )

    yield make
    for inst in supervisor.find(settings.MH_HOME, "ollama"):
        supervisor.stop(inst, grace=0.2)
