"""The plugin against fake servers: real processes with the recorded habits."""

import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from backends.engines.base import Target
from backends.engines.ollama import OllamaEngine, client
from backends.errors import OperationCancelled, StartFailed, StopFailed, UnknownModel
from tests.backends.engines.ollama.conftest import MODEL, Serve, Server, lives, until
from tests.fakes import fake_ollama

ENGINE = OllamaEngine()
VERSIONS = ("0.32.15", "0.24.0")

pytestmark = pytest.mark.process


def streaming(server: Server, tokens: int = 40) -> tuple[threading.Thread, list[str]]:
    """A chat that runs beside the test; return when it has its first token."""
    got: list[str] = []
    body = {"model": MODEL, "messages": [{"role": "user", "content": "go on"}]}

    def chat() -> None:
        with server.client.stream("POST", "/api/chat", json=body) as answer:
            got.extend(answer.iter_lines())

    thread = threading.Thread(target=chat, daemon=True)
    thread.start()
    until(lambda: server.state()["started"])
    return thread, got


# What it says of itself.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_is_ready_before_any_model_is_loaded(serve: Serve, version: str) -> None:
    target = serve(version=version).target
    assert ENGINE.is_ready(target, timeout=5)
    assert ENGINE.is_healthy(target, timeout=5)
    assert ENGINE.version(target, timeout=5) == version
    assert ENGINE.loaded_model(target, timeout=5) is None
    assert ENGINE.loaded(target, timeout=5) == []
    assert [model.id for model in ENGINE.models_of(target, timeout=5)] == [MODEL]
    assert ENGINE.models_of(target, timeout=5)[0].size_bytes > 98_000_000
    assert ENGINE.metrics(target, timeout=5).running is None


def test_nobody_listening_is_simply_not_ready() -> None:
    target = Target(endpoint="http://127.0.0.1:1", served_model=MODEL)
    assert not ENGINE.is_ready(target, timeout=1)
    assert not ENGINE.is_healthy(target, timeout=1)
    with pytest.raises(httpx.HTTPError):
        ENGINE.loaded_model(target, timeout=1)


def test_a_model_shown_says_what_it_can_do(serve: Serve) -> None:
    server = serve()
    fake_ollama.add_model(server.store, "thinker:8b", capabilities=("completion", "thinking"))
    found = ENGINE.show(server.target, "thinker:8b", timeout=5)
    assert found.capabilities == ("completion", "thinking")
    assert (found.family, found.parameters, found.quantization) == ("llama", "134.52M", "Q4_1")
    assert found.context_length == 8192
    with pytest.raises(UnknownModel, match="mh ollama pull nope"):
        ENGINE.show(server.target, "nope", timeout=5)


# Loading.


@pytest.mark.parametrize("version", VERSIONS)
def test_warming_up_loads_the_model_and_generates_a_token(serve: Serve, version: str) -> None:
    server = serve(version=version)
    ENGINE.warm_up(server.target, timeout=10)
    assert server.loaded() == [MODEL]
    assert server.state()["last"]["options"]["num_predict"] == 1
    assert ENGINE.loaded_model(server.target, timeout=5) == MODEL
    found = ENGINE.loaded(server.target, timeout=5)[0]
    assert found.context_length == 4096
    assert found.expires_at
    assert 200 < (found.expires_at - datetime.now(UTC)).total_seconds() < 310


def test_a_model_kept_for_ever_has_no_end(serve: Serve) -> None:
    server = serve(OLLAMA_KEEP_ALIVE="-1")
    ENGINE.load(server.target, MODEL, timeout=10)
    assert ENGINE.loaded(server.target, timeout=5)[0].expires_at is None


def test_a_model_that_only_embeds_is_warmed_by_embedding(serve: Serve) -> None:
    server = serve()
    fake_ollama.add_model(server.store, "embedder", capabilities=("embedding",))
    target = Target(endpoint=server.target.endpoint, served_model="embedder")
    ENGINE.warm_up(target, timeout=10)
    assert ENGINE.loaded_model(target, timeout=5) == "embedder"
    assert server.loaded() == ["embedder:latest"]
    ENGINE.unload(target, "embedder", timeout=10)
    assert server.loaded() == []


def test_a_thinking_models_first_token_is_a_thought_and_counts(serve: Serve) -> None:
    server = serve()
    fake_ollama.add_model(server.store, MODEL, capabilities=("completion", "thinking"))
    ENGINE.warm_up(server.target, timeout=10)


def test_a_model_that_is_not_there_is_told_apart_from_one_that_does_not_load(serve: Serve) -> None:
    server = serve("crash-load")
    with pytest.raises(UnknownModel, match="no model “nope”"):
        ENGINE.load(server.target, "nope", timeout=10)
    with pytest.raises(StartFailed) as failure:
        ENGINE.warm_up(server.target, timeout=10)
    assert "process has terminated" in failure.value.detail
    assert server.loaded() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_model_fails_with_ollamas_own_reason(serve: Serve, version: str) -> None:
    server = serve(version=version)
    blob = max((server.store / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(blob, 1000)
    with pytest.raises(StartFailed) as failure:
        ENGINE.load(server.target, MODEL, timeout=10)
    assert "exceeds file size" in failure.value.detail


def test_a_load_that_hangs_ends_with_its_time_and_leaves_no_runner(serve: Serve) -> None:
    server = serve("hang-load")
    with pytest.raises(StartFailed, match="startTimeoutSeconds"):
        ENGINE.load(server.target, MODEL, timeout=0.5)
    until(lambda: not server.state()["runners"])


def test_a_cancelled_load_is_given_up_by_the_server(serve: Serve) -> None:
    server = serve("load=60")
    started = time.monotonic()
    with pytest.raises(OperationCancelled):
        ENGINE.load(
            server.target, MODEL, timeout=50, cancelled=lambda: bool(server.state()["runners"])
        )
    until(lambda: not server.state()["runners"])
    assert time.monotonic() - started < 10
    assert server.loaded() == []


def test_a_runner_killed_behind_the_servers_back_is_loaded_again(serve: Serve) -> None:
    server = serve()
    ENGINE.warm_up(server.target, timeout=10)
    os.kill(server.runner(), signal.SIGKILL)
    assert ENGINE.loaded_model(server.target, timeout=5) == MODEL  # so it says
    ENGINE.warm_up(server.target, timeout=10)
    assert server.state()["loads"] == 2


def test_too_many_waiting_loads_are_a_reason_to_try_again(serve: Serve) -> None:
    server = serve("load=30", OLLAMA_MAX_QUEUE="0")
    with pytest.raises(StartFailed, match="too busy"):
        ENGINE.load(server.target, MODEL, timeout=10)


def test_a_model_that_leaves_at_once_is_not_said_to_be_loaded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LISTED_TIMEOUT", 0.2)
    server = serve(OLLAMA_KEEP_ALIVE="0")
    with pytest.raises(StartFailed, match="keepAlive"):
        ENGINE.load(server.target, MODEL, timeout=10)


# Unloading.


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unload_is_over_when_the_server_lists_the_model_no_more(
    serve: Serve, version: str
) -> None:
    server = serve("unload=0.3", version=version)
    ENGINE.load(server.target, MODEL, timeout=10)
    runner = server.runner()
    ENGINE.unload(server.target, MODEL, timeout=10)
    assert server.loaded() == []
    assert not lives(runner)
    ENGINE.unload(server.target, MODEL, timeout=10)
    ENGINE.unload(server.target, "nope", timeout=10)


def test_an_unload_waits_for_the_stream(serve: Serve) -> None:
    server = serve("token=0.05", "tokens=20")
    thread, got = streaming(server)
    ENGINE.unload(server.target, MODEL, timeout=20)
    thread.join(10)
    assert len(got) == 21
    assert '"done":true' in got[-1]


def test_an_unload_that_does_not_happen_is_an_error_that_says_so(serve: Serve) -> None:
    server = serve("unload-never")
    ENGINE.load(server.target, MODEL, timeout=10)
    with pytest.raises(StopFailed, match="still holds smollm2:135m"):
        ENGINE.unload(server.target, MODEL, timeout=0.3)


def test_an_unload_behind_a_hung_runner_ends_bounded(serve: Serve) -> None:
    server = serve("hang-after=1")
    streaming(server)
    until(server.loaded)
    assert ENGINE.is_healthy(server.target, timeout=5)
    with pytest.raises(StopFailed, match="runner hangs"):
        ENGINE.unload(server.target, MODEL, timeout=0.5)


def test_a_model_deleted_while_in_memory_cannot_be_unloaded_and_says_why(serve: Serve) -> None:
    server = serve()
    ENGINE.load(server.target, MODEL, timeout=10)
    ENGINE.delete(server.target, MODEL, timeout=5)
    with pytest.raises(StopFailed, match="not found"):
        ENGINE.unload(server.target, MODEL, timeout=0.3)


def test_parking_unloads_every_model_and_unparking_brings_the_served_one_back(serve: Serve) -> None:
    server = serve()
    fake_ollama.add_model(server.store, "other:1b")
    ENGINE.load(server.target, MODEL, timeout=10)
    ENGINE.load(server.target, "other:1b", timeout=10)
    assert sorted(server.loaded()) == ["other:1b", MODEL]
    runners = list(server.state()["runners"].values())
    ENGINE.park(server.target, timeout=10)
    assert server.loaded() == []
    assert not any(lives(pid) for pid in runners)
    assert ENGINE.is_healthy(server.target, timeout=5)
    ENGINE.unpark(server.target, timeout=10)
    assert server.loaded() == [MODEL]


# Answers that are none.


@pytest.mark.parametrize(
    ("habit", "failure"), [("crash-after=1", StartFailed), ("die-after=1", httpx.HTTPError)]
)
def test_a_crash_at_the_first_token_is_not_taken_for_an_answer(
    serve: Serve, habit: str, failure: type[Exception]
) -> None:
    server = serve(habit)
    with pytest.raises(failure):
        ENGINE.warm_up(server.target, timeout=10)


@pytest.mark.parametrize(
    "answer",
    [{}, {"version": 1}, {"models": None}, {"models": [1, {}, {"name": "", "size": "x"}]}],
)
def test_odd_answers_say_nothing(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ask", lambda *_args: answer)
    target = Target(endpoint="http://127.0.0.1:1", served_model=MODEL)
    assert client.version(target, 1) == ""
    assert client.loaded(target, 1) == []
    assert client.models(target, 1) == []


def test_requests_given_up_leave_no_thread(serve: Serve) -> None:
    server = serve("load=60")

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    calm: Callable[[], bool] = lambda: True  # noqa: E731
    with pytest.raises(OperationCancelled):
        ENGINE.load(server.target, MODEL, timeout=50, cancelled=calm)
    assert "mh-ollama-request" not in names()
