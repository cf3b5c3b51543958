"""Sleep mode against a process that has it, one that only says so, and all the ways in which it fails."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.engines.base import Target
from backends.engines.vllm import VllmEngine, VllmOptions, sleep
from backends.engines.vllm.installation import Installation
from backends.errors import OperationCancelled, StartFailed, StopFailed
from tests.fakes.run_vllm import FakeServer, fakes

pytestmark = pytest.mark.process

ENGINE = VllmEngine()
DEV = {"VLLM_SERVER_DEV_MODE": "1"}
Start = Callable[..., FakeServer]


@pytest.fixture(scope="module")
def start_fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with fakes(tmp_path_factory.mktemp("fakes")) as start:
        yield start


@pytest.fixture(scope="module")
def shared(start_fake: Start) -> FakeServer:
    return start_fake("--enable-sleep-mode", **DEV)


@pytest.fixture
def sleeper(shared: FakeServer) -> Iterator[FakeServer]:
    """One that can sleep; awake and well-behaved at the end of each test."""
    yield shared
    shared.behave()
    shared.post("/wake_up")
    shared.post("/collective_rpc", {"method": "reload_weights"})


def target(server: FakeServer, level: int = 1) -> Target:
    return server.target(options=VllmOptions(sleepMode=True, sleepLevel=level))  # type: ignore[arg-type]


def park(server: FakeServer, level: int = 1, timeout: float = 10) -> None:
    ENGINE.park(target(server, level), timeout=timeout)


def unpark(server: FakeServer, timeout: float = 10, **more: Any) -> None:
    ENGINE.unpark(target(server), timeout=timeout, **more)


def answers(server: FakeServer) -> bool:
    return "Paris" in server.chat().json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("level", [1, 2])
def test_asleep_and_awake_again_it_answers_as_before(sleeper: FakeServer, level: int) -> None:
    park(sleeper, level)
    assert sleeper.state()["level"] == level
    assert ENGINE.metrics(target(sleeper), timeout=2).asleep is True
    assert ENGINE.is_healthy(target(sleeper), timeout=2)
    unpark(sleeper)
    assert ENGINE.metrics(target(sleeper), timeout=2).asleep is False
    assert answers(sleeper)


def test_the_level_is_the_first_where_nobody_says(sleeper: FakeServer) -> None:
    ENGINE.park(sleeper.target(), timeout=10)
    assert sleeper.state()["level"] == 1


def test_waking_one_that_is_awake_is_no_error(sleeper: FakeServer) -> None:
    unpark(sleeper)


def test_an_engine_started_without_sleep_mode_is_not_even_asked(start_fake: Start) -> None:
    """It would say that it sleeps, metrics included, free nothing, and let every chat hang."""
    liar = start_fake(**DEV)
    with pytest.raises(StopFailed, match="without sleep mode"):
        park(liar)
    assert answers(liar)
    liar.post("/sleep?level=1")
    assert sleep.client.sleep_state(target(liar), 2) == "weights_offloaded"
    with pytest.raises(httpx.ReadTimeout):
        liar.chat(timeout=0.3)


def test_without_its_endpoints_it_cannot_be_parked(start_fake: Start) -> None:
    with pytest.raises(StopFailed, match="VLLM_SERVER_DEV_MODE"):
        park(start_fake("--enable-sleep-mode"))


def test_an_address_open_to_others_is_never_spoken_to() -> None:
    far = Target(endpoint="http://192.0.2.1:8000", served_model="x")
    with pytest.raises(StopFailed, match="open to others"):
        ENGINE.park(far, timeout=5)
    with pytest.raises(StartFailed) as caught:
        ENGINE.unpark(far, timeout=5)
    assert "open to others" in caught.value.detail


@pytest.mark.parametrize(
    ("habit", "timeout", "reason"),
    [
        ("sleep-hangs", 0.5, "in time"),
        ("sleep-fails", 10, "500"),
        ("sleep-ignored", 0.5, "its metrics say awake"),
        ("no-metrics", 10, "404"),
    ],
)
def test_a_sleep_that_fails_is_told_so_that_it_can_be_stopped(
    sleeper: FakeServer, habit: str, timeout: float, reason: str
) -> None:
    sleeper.behave(habit)
    with pytest.raises(StopFailed, match=reason):
        park(sleeper, timeout=timeout)


@pytest.mark.parametrize("state", ["park", "unpark"])
def test_one_that_is_gone_is_told(start_fake: Start, state: str) -> None:
    server = start_fake("--enable-sleep-mode", **DEV)
    if state == "unpark":
        park(server)
    server.end()
    with pytest.raises(StopFailed if state == "park" else StartFailed):
        park(server) if state == "park" else unpark(server)


def test_one_that_dies_of_falling_asleep_is_found_by_its_metrics(start_fake: Start) -> None:
    server = start_fake("--enable-sleep-mode", "--behaviour", "sleep-dies", **DEV)
    with contextlib.suppress(StopFailed):  # its metrics may have been read in its last moment
        park(server)
    assert server.process.wait(10) == 0
    with pytest.raises(StartFailed):
        unpark(server)


@pytest.mark.parametrize(
    ("habit", "level", "timeout", "reason"),
    [
        ("wake-hangs", 1, 0.5, "in time"),
        ("wake-ignored", 1, 0.5, "its metrics say weights_offloaded"),
        ("wake-mute", 1, 1, "in time"),
        ("reload-fails", 2, 10, "500"),
        ("no-metrics", 1, 10, "404"),
    ],
)
def test_a_wake_up_that_fails_is_told_with_its_reason(
    sleeper: FakeServer, habit: str, level: int, timeout: float, reason: str
) -> None:
    park(sleeper, level)
    sleeper.behave(habit)
    with pytest.raises(StartFailed) as caught:
        unpark(sleeper, timeout)
    assert reason in caught.value.detail
    sleeper.behave()


def test_one_that_dies_of_waking_is_told(start_fake: Start) -> None:
    server = start_fake("--enable-sleep-mode", "--behaviour", "wake-dies", **DEV)
    park(server)
    with pytest.raises(StartFailed):
        unpark(server)


def test_a_wake_up_is_given_up_at_once_when_it_is_cancelled(sleeper: FakeServer) -> None:
    park(sleeper)
    sleeper.behave("wake-hangs")
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(OperationCancelled):
        unpark(sleeper, 60, cancelled=cancel.is_set)
    assert time.monotonic() - began < 5


def test_a_hanging_first_token_is_given_up_when_it_is_cancelled(sleeper: FakeServer) -> None:
    park(sleeper)
    sleeper.behave("wake-mute")
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(OperationCancelled):
        unpark(sleeper, 60, cancelled=cancel.is_set)


def test_weights_of_level_two_are_noise_until_they_are_read_again(sleeper: FakeServer) -> None:
    park(sleeper, 2)
    sleeper.post("/wake_up")
    assert not answers(sleeper)
    sleeper.post("/sleep?level=2")
    unpark(sleeper)
    assert answers(sleeper)


@pytest.mark.parametrize(
    ("build", "asked", "possible"),
    [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_it_can_be_parked_where_sleep_mode_is_on_and_the_build_has_it(
    monkeypatch: pytest.MonkeyPatch, build: Any, asked: bool, possible: bool
) -> None:
    found = Installation(python=Path("/e/bin/python"), version="0.32.0", build=build)
    monkeypatch.setattr("backends.engines.vllm.installation.find", lambda: found)
    assert ENGINE.can_park(VllmOptions(sleepMode=asked)) is possible


def test_without_an_installation_nothing_can_be_parked() -> None:
    assert ENGINE.can_park(VllmOptions(sleepMode=True)) is False
