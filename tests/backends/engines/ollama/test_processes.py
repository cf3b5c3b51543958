"""Ollama's processes, under the real keeper and without one: what ends, what is left, what clients see."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backends import supervisor
from backends.engines.base import Launch, Target
from backends.engines.ollama import OllamaEngine, OllamaOptions, running
from backends.ports import free_port
from tests.backends.engines.ollama.conftest import (
    FAKE,
    MODEL,
    TIMEOUT,
    Serve,
    Server,
    lives,
    until,
)
from tests.fakes import fake_ollama

ENGINE = OllamaEngine()
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "go on"}]}

pytestmark = pytest.mark.process


@dataclass
class Kept:
    """An Ollama of ours: started as an operation would."""

    instance: supervisor.Instance
    launch: Launch
    options: OllamaOptions

    @property
    def target(self) -> Target:
        return Target(endpoint=self.launch.endpoint, served_model=self.launch.served_model)

    def ask(self, path: str, **body: Any) -> Any:
        method = "POST" if body else "GET"
        url = self.launch.endpoint + path
        return httpx.request(
            method, url, json=body or None, timeout=TIMEOUT, trust_env=False, verify=False
        ).json()

    def runners(self) -> list[int]:
        return list(self.ask("/_fake/state")["runners"].values())


Keep = Callable[..., Kept]


@pytest.fixture
def keep(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keep]:
    """Start an Ollama under the keeper, ready and warm, from nothing but options."""
    kept: list[Kept] = []
    home = tmp_path_factory.mktemp("h")

    def start(*habits: str, version: str = "0.32.15", wait: bool = True, **options: Any) -> Kept:
        store = tmp_path / "models"
        fake_ollama.add_model(store, MODEL)
        settings = {"FAKE_OLLAMA_VERSION": version, "FAKE_OLLAMA_HABITS": ",".join(habits)}
        binary = fake_ollama.make_binary(tmp_path / "program" / "ollama", **settings)
        monkeypatch.setenv("MH_OLLAMA_BIN", str(binary))
        values = {"model": MODEL, "modelsDir": str(store), "port": free_port(), **options}
        made = OllamaOptions(**values)
        assert ENGINE.preflight(made) == []
        one = Kept(supervisor.new_instance(home, "ollama"), ENGINE.launch(made), made)
        kept.append(one)
        supervisor.spawn(one.instance, one.launch)
        if wait:
            until(lambda: ENGINE.is_ready(one.target, timeout=2))
            assert supervisor.owns_listener(one.instance, made.port)
            ENGINE.warm_up(one.target, timeout=TIMEOUT)
        return one

    yield start
    for one in kept:
        supervisor.stop(one.instance, grace=0.2)


@pytest.mark.parametrize("version", ["0.32.15", "0.24.0"])
def test_a_stop_ends_server_and_runner_and_frees_the_port(keep: Keep, version: str) -> None:
    kept = keep(version=version)
    pids = supervisor.tree(kept.instance)
    assert set(kept.runners()) < set(pids)
    ended = supervisor.stop(kept.instance, grace=5)
    assert ended.exit
    assert (ended.exit.status, ended.exit.requested) == (0, True)
    assert not any(lives(pid) for pid in pids)
    assert supervisor.port_holder(kept.options.port, "127.0.0.1") is None


@pytest.mark.parametrize("version", ["0.32.15", "0.24.0"])
def test_a_killed_server_leaves_no_runner(keep: Keep, version: str) -> None:
    kept = keep(version=version)
    (runner,) = kept.runners()
    server = supervisor.inspect(kept.instance).engine_pid
    assert server
    os.kill(server, signal.SIGKILL)
    until(lambda: supervisor.inspect(kept.instance).exit)
    ended = supervisor.inspect(kept.instance).exit
    assert ended
    assert (ended.signal, ended.requested, ended.leftovers_killed) == (signal.SIGKILL, False, 1)
    assert not lives(runner)
    assert supervisor.find(kept.instance.folder.parents[2], "ollama") == []


def test_a_server_that_does_not_hear_term_is_ended_with_its_runner(keep: Keep) -> None:
    kept = keep("ignore-term")
    pids = supervisor.tree(kept.instance)
    supervisor.stop(kept.instance, grace=0.3)
    assert not any(lives(pid) for pid in pids)


def test_a_stop_while_the_model_loads_leaves_nothing(keep: Keep) -> None:
    kept = keep("load=60", wait=False)
    until(lambda: ENGINE.is_ready(kept.target, timeout=2))
    failures: list[Exception] = []

    def warm() -> None:
        try:
            ENGINE.warm_up(kept.target, timeout=50)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=warm, daemon=True)
    thread.start()
    until(kept.runners)
    pids = supervisor.tree(kept.instance)
    assert len(pids) == 2
    supervisor.stop(kept.instance, grace=5)
    thread.join(TIMEOUT)
    assert isinstance(failures[0], httpx.HTTPError)
    assert not any(lives(pid) for pid in pids)


def test_what_was_asked_for_reaches_the_server(keep: Keep) -> None:
    kept = keep(keepAlive="-1", contextLength=1024, numParallel=2)
    found = ENGINE.loaded(kept.target, timeout=5)[0]
    assert (found.context_length, found.expires_at) == (1024, None)


def test_the_log_of_a_start_gives_progress(keep: Keep) -> None:
    kept = keep()
    lines = supervisor.log_tail(kept.instance)
    assert "FAKE" in lines[0]
    seen = ENGINE.progress(lines)
    assert seen
    assert seen.message == "the model is loaded"
    assert ENGINE.failure_reason(lines) == ""


@pytest.mark.parametrize(
    ("habit", "reason"), [("fail-start", "permission denied"), ("", "address already in use")]
)
def test_a_start_that_fails_says_why(keep: Keep, habit: str, reason: str) -> None:
    first = None if habit else keep()
    port = first.options.port if first else free_port()
    kept = keep(habit, wait=False, port=port)
    until(lambda: supervisor.inspect(kept.instance).exit)
    ended = supervisor.inspect(kept.instance).exit
    assert ended
    assert ended.status == 1
    assert reason in ENGINE.failure_reason(supervisor.log_tail(kept.instance))
    assert not supervisor.owns_listener(kept.instance, port)


# One that somebody else started.


def test_a_running_server_is_found_with_its_version_model_and_process(serve: Serve) -> None:
    server = serve()
    options = OllamaOptions(model=MODEL, port=httpx.URL(server.target.endpoint).port)
    found = ENGINE.running(options, timeout=5)
    assert found
    assert (found.endpoint, found.version) == (server.target.endpoint, "0.32.15")
    assert (found.model, found.pid) == (None, server.process.pid)
    ENGINE.load(server.target, MODEL, timeout=10)
    found = ENGINE.running(options, timeout=5)
    assert found
    assert found.model == MODEL


def test_nothing_and_something_else_on_the_port_are_not_ollama() -> None:
    port = free_port()
    options = OllamaOptions(port=port)
    assert ENGINE.running(options, timeout=1) is None
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    other = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until(lambda: supervisor.port_holder(port, "127.0.0.1"))
        assert ENGINE.running(options, timeout=5) is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("0::/system.slice/ollama.service\n", "ollama.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/my-ollama.service\n", "my-ollama.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", ""),
        ("0::/\n", ""),
    ],
)  # fmt: skip
def test_the_unit_is_read_from_the_control_group(
    group: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: group)
    assert running._unit(1) == unit


# The fake's processes are as recorded.


def stream(server: Server, got: list[str]) -> threading.Thread:
    """A chat beside the test; its lines, and at the end what became of it."""

    def chat() -> None:
        try:
            with server.client.stream("POST", "/api/chat", json=CHAT) as answer:
                got.extend(answer.iter_lines())
            got.append("clean end")
        except httpx.HTTPError as error:
            got.append(type(error).__name__)

    thread = threading.Thread(target=chat, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("version", "name"), [("0.32.15", "llama-server"), ("0.24.0", "ollama")])
def test_a_loaded_model_is_a_child_on_a_port_of_its_own(
    serve: Serve, version: str, name: str
) -> None:
    server = serve(version=version)
    assert psutil.Process(server.process.pid).children() == []
    ENGINE.load(server.target, MODEL, timeout=10)
    (child,) = psutil.Process(server.process.pid).children()
    assert child.name() == name
    command = " ".join(child.cmdline())
    assert ("llama-server" if version == "0.32.15" else "runner --model") in command
    assert "--port" in command
    listening = [item for item in child.net_connections() if item.status == psutil.CONN_LISTEN]
    assert [item.laddr.ip for item in listening] == ["127.0.0.1"]


def test_term_cuts_streams_without_an_end_and_exits_0_with_the_child(serve: Serve) -> None:
    server = serve("token=0.02", "tokens=500")
    got: list[str] = []
    thread = stream(server, got)
    until(lambda: server.state()["started"])
    time.sleep(0.2)
    runner = server.runner()
    server.process.terminate()
    assert server.process.wait(TIMEOUT) == 0
    thread.join(TIMEOUT)
    assert got[-1] in {"RemoteProtocolError", "ReadError"}
    assert '"done":false' in got[-2]
    assert not lives(runner)


def test_a_killed_server_orphans_its_runner_which_does_not_hear_term(serve: Serve) -> None:
    server = serve()
    ENGINE.load(server.target, MODEL, timeout=10)
    runner = server.runner()
    server.process.kill()
    server.process.wait()
    os.kill(runner, signal.SIGTERM)
    time.sleep(0.2)
    assert lives(runner)
    os.kill(runner, signal.SIGKILL)


def test_a_port_in_use_is_status_1_and_the_recorded_line(serve: Serve) -> None:
    server = serve()
    host = server.target.endpoint.removeprefix("http://")
    environment = {"PATH": os.defpath, "OLLAMA_HOST": host, "OLLAMA_MODELS": str(server.store)}
    ended = subprocess.run(
        [sys.executable, str(FAKE), "serve"], env=environment, capture_output=True, check=False
    )
    assert ended.returncode == 1
    line = ended.stderr.decode().splitlines()[-1]
    assert line == f"Error: listen tcp {host}: bind: address already in use"


def test_a_crash_in_mid_stream_is_a_line_under_status_200(serve: Serve) -> None:
    server = serve("crash-after=3")
    answer = server.client.post("/api/chat", json=CHAT)
    assert answer.status_code == 200
    lines = answer.text.splitlines()
    assert len(lines) == 4
    assert lines[-1] == (
        '{"error":"an error was encountered while running the model: unexpected EOF"}'
    )
    server.habits()
    assert server.client.post("/api/chat", json=CHAT).text.splitlines()[-1].count('"done":true')


def test_nothing_not_even_headers_comes_before_the_first_token(serve: Serve) -> None:
    server = serve("load=30")
    with (
        pytest.raises(httpx.ReadTimeout),
        server.client.stream("POST", "/api/chat", json=CHAT, timeout=0.5),
    ):
        pytest.fail("headers came")
    until(lambda: not server.state()["runners"])  # the load is given up with its only client


def test_a_second_request_waits_for_the_first(serve: Serve) -> None:
    server = serve("token=0.02", "tokens=20")
    got: list[str] = []
    thread = stream(server, got)
    until(lambda: server.state()["started"] and server.loaded())
    limited = CHAT | {"options": {"num_predict": 1}, "stream": False}
    assert server.client.post("/api/chat", json=limited).json()["done"]
    thread.join(TIMEOUT)
    assert len(got) == 22


def test_another_context_length_restarts_the_runner(serve: Serve) -> None:
    server = serve()
    ENGINE.load(server.target, MODEL, timeout=10)
    before = server.runner()
    server.client.post("/api/chat", json=CHAT | {"options": {"num_ctx": 1024}})
    assert server.runner() != before
    assert not lives(before)
    assert ENGINE.loaded(server.target, timeout=5)[0].context_length == 1024


def test_a_model_leaves_when_its_time_is_over(serve: Serve) -> None:
    server = serve()
    server.client.post("/api/generate", json={"model": MODEL, "keep_alive": "300ms"})
    assert server.loaded() == [MODEL]
    until(lambda: not server.loaded())


def test_a_client_that_leaves_ends_the_generation(serve: Serve) -> None:
    server = serve("token=0.02", "tokens=1000")
    with server.client.stream("POST", "/api/chat", json=CHAT) as answer:
        next(answer.iter_lines())
    until(lambda: server.state()["aborted"])
    server.habits()
    assert server.client.post("/api/chat", json=CHAT).status_code == 200
