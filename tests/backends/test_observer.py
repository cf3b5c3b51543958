"""The observer on real processes: what happens by itself is seen, said, and cleared away."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest
from django.conf import settings

from accounts.actors import Actor
from audit.models import Event
from backends import bus, selectors, services, supervisor
from backends.lifecycle import State
from backends.observer import Observer
from tests.backends.conftest import FakeBackend

pytestmark = pytest.mark.process


@pytest.fixture
def running(
    fake: Callable[..., FakeBackend], owner_actor: Actor
) -> Iterator[Callable[..., FakeBackend]]:
    def make(**options: object) -> FakeBackend:
        backend = fake(**options)
        services.backend_start(actor=owner_actor, name="fake", foreground=True)
        backend.run()
        assert backend.row.state == State.READY
        return backend

    return make


def observe_until(done: Callable[[], bool], seconds: float = 5.0) -> Observer:
    observer = Observer()
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "the observer did not see it"
        observer.look()
        time.sleep(0.05)
    return observer


def wait_until_running(port: int) -> None:
    """Wait until the engine says that it works on a request."""
    deadline = time.monotonic() + 10
    while httpx.get(f"http://127.0.0.1:{port}/_fake/state").json()["running"] < 1:
        assert time.monotonic() < deadline, "the request did not arrive"
        time.sleep(0.02)


def engine_pid(backend: FakeBackend) -> int:
    inst = selectors.backend_instance(backend.row)
    assert inst is not None
    pid = supervisor.inspect(inst).engine_pid
    assert pid is not None
    return pid


def test_an_engine_that_is_killed_is_failed_with_the_reason_and_nothing_is_left(
    running: Callable[..., FakeBackend],
) -> None:
    backend = running(arguments="--engine-core")
    pids = backend.pids()
    assert len(pids) >= 2
    os.kill(engine_pid(backend), signal.SIGKILL)
    observe_until(lambda: backend.row.state == State.FAILED)
    assert "signal 9" in backend.row.failure
    assert not any(psutil.pid_exists(pid) for pid in pids)
    event = Event.objects.get(event="backend.failed")
    assert (event.actor_name, event.target_id) == ("system", "fake")


def test_an_engine_told_to_end_by_somebody_else_that_hangs_on_an_open_stream_is_cleared_away(
    running: Callable[..., FakeBackend],
) -> None:
    backend = running()
    habits = {"behaviour": ["hang-on-term", "silent"]}
    httpx.post(f"http://127.0.0.1:{backend.port}/_fake/behaviour", json=habits)
    url = f"http://127.0.0.1:{backend.port}/v1/chat/completions"
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with socket.create_connection(("127.0.0.1", backend.port)) as client:
        data = json.dumps(body).encode()
        client.sendall(
            f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        pids = backend.pids()
        wait_until_running(backend.port)
        os.kill(engine_pid(backend), signal.SIGTERM)
        observe_until(lambda: backend.row.state == State.FAILED, seconds=20)
    assert "closed its port" in backend.row.failure
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_snapshot_says_what_is_installed_and_how_much_memory_it_takes(
    running: Callable[..., FakeBackend],
) -> None:
    running()
    observe_until(lambda: bus.snapshot_read(settings.MH_NODE) is not None)
    status = selectors.status()
    assert status["observed_at"]
    assert status["available"]["fake"]["installed"] is True
    assert (status["available"]["fake"]["memory"] or 0) > 1_000_000
    assert status["active"]["running"] is True
    assert status["active"]["health"] == "healthy"


def test_a_killed_keeper_is_replaced_and_the_engine_goes_on(
    running: Callable[..., FakeBackend],
) -> None:
    backend = running()
    inst = selectors.backend_instance(backend.row)
    assert inst is not None
    pid = engine_pid(backend)
    keeper = psutil.Process(pid).parent()
    assert keeper is not None
    assert any(part.endswith("keeper.py") for part in keeper.cmdline())
    keeper.kill()
    keeper.wait(5)
    assert not supervisor.inspect(inst).keeper_alive
    observe_until(lambda: supervisor.inspect(inst).keeper_alive)
    assert engine_pid(backend) == pid
    assert backend.row.state == State.READY


def test_an_engine_that_stops_answering_is_degraded_after_several_misses_and_comes_back(
    running: Callable[..., FakeBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = running()
    answers = iter([False, True, False, False, False, True])
    engine = selectors.backend_engine(backend.row)
    monkeypatch.setattr(type(engine), "is_healthy", lambda *_a, **_k: next(answers))
    observer = Observer()
    seen = []
    for _ in range(6):
        observer._next_probe = 0
        observer.look()
        seen.append(State(backend.row.state))
    assert seen == [
        State.READY, State.READY, State.READY, State.READY, State.DEGRADED, State.READY,
    ]  # fmt: skip


def test_a_backend_said_to_run_without_any_process_is_failed(
    fake: Callable[..., FakeBackend],
) -> None:
    backend = fake()
    type(backend.row).objects.update(state=State.READY, instance_id="20200101-gone")
    observe_until(lambda: backend.row.state == State.FAILED)
    assert backend.row.failure


def test_with_nothing_running_the_active_backend_is_the_configured_one(
    fake: Callable[..., FakeBackend],
) -> None:
    fake()
    active = selectors.status()["active"]
    assert (active["backend"], active["running"], active["health"]) == ("fake", False, "offline")
