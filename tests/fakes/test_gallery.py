"""The gallery: each misbehaving fake does what its table says, as real processes, sockets and signals."""

import json
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends import keeper, supervisor
from backends.engines.base import Launch
from backends.engines.vllm import log as vllm_log
from tests.backends.engines.ollama.conftest import MODEL, Serve, Server, lives, pool, serve
from tests.fakes import fake_ollama, fake_vllm
from tests.fakes.engines.harness import yard
from tests.fakes.run_vllm import PROGRAM, FakeServer, fakes, until

__all__ = ["pool", "serve"]  # fixtures

pytestmark = pytest.mark.process

Start = Callable[..., FakeServer]
FRANCE = {"messages": [{"role": "user", "content": "capital of France?"}], "stream": True}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with fakes(tmp_path_factory.mktemp("fakes")) as made:
        yield made


@pytest.fixture(scope="module")
def shared(start: Start) -> FakeServer:
    return start()


@pytest.fixture
def fake(shared: FakeServer) -> Iterator[FakeServer]:
    """One fake for all tests that only change how it answers."""
    yield shared
    shared.behave()


def behaving(start: Start, *words: str, **env: str) -> FakeServer:
    return start(*(part for word in words for part in ("--behaviour", word)), **env)


def stream(server: FakeServer, *, bytes_too: bool = False) -> tuple[list[Any], str]:
    """Return the frames of a stream, and how it ended: ``done``, ``end``, ``cut``, ``silence``."""
    frames: list[Any] = []
    url = f"{server.url}/v1/chat/completions"
    sizes = []
    try:
        with (
            httpx.Client(trust_env=False, timeout=httpx.Timeout(10, read=3.0)) as client,
            client.stream("POST", url, json=FRANCE) as response,
        ):
            assert response.status_code == 200
            buffer = b""
            for chunk in response.iter_raw():
                sizes.append(len(chunk))
                buffer += chunk
                *whole, buffer = buffer.split(b"\n\n")
                for frame in whole:
                    data = frame.removeprefix(b"data: ").decode()
                    if data == "[DONE]":
                        return [*frames, *([min(sizes)] if bytes_too else [])], "done"
                    frames.append(json.loads(data))
    except httpx.ReadTimeout:
        return frames, "silence"
    except httpx.HTTPError:
        return frames, "cut"
    return frames, "end"


def words(frames: list[Any], key: str = "content") -> str:
    deltas = [frame["choices"][0]["delta"] for frame in frames if frame.get("choices")]
    return "".join(delta.get(key) or "" for delta in deltas)


def reasons(frames: list[Any]) -> list[str]:
    found = [frame["choices"][0]["finish_reason"] for frame in frames if frame.get("choices")]
    return [reason for reason in found if reason]


# Answers.


def test_a_well_behaved_one_answers_to_the_end(fake: FakeServer) -> None:
    frames, end = stream(fake)
    assert (words(frames), reasons(frames), end) == (
        "The capital of France is Paris.",
        ["stop"],
        "done",
    )


@pytest.mark.parametrize(
    ("habit", "end", "said"),
    [
        ("error-after=2", "done", "The capital"),
        ("cut-after=2", "cut", "The capital"),
        ("end-after=2", "end", "The capital"),
        ("silent-after=2", "silence", "The capital"),
        ("silent", "silence", ""),
    ],
)
def test_a_stream_that_breaks_has_no_finish_reason(
    fake: FakeServer, habit: str, end: str, said: str
) -> None:
    fake.behave(habit)
    frames, ended = stream(fake)
    assert (words(frames), reasons(frames), ended) == (said, [], end)
    assert ("error" in (frames or [{}])[-1]) == (habit == "error-after=2")


def test_an_end_mark_may_be_missing(fake: FakeServer) -> None:
    fake.behave("no-done")
    frames, end = stream(fake)
    assert (reasons(frames), end) == (["stop"], "end")


def test_frames_may_be_cut_anywhere(fake: FakeServer) -> None:
    fake.behave("split")
    frames, end = stream(fake, bytes_too=True)
    assert (words(frames[:-1]), end) == ("The capital of France is Paris.", "done")
    assert frames[-1] <= 7


@pytest.mark.parametrize(
    ("habit", "key"), [("reasoning", "reasoning"), ("reasoning-old", "reasoning_content")]
)
def test_thoughts_stand_apart(fake: FakeServer, habit: str, key: str) -> None:
    fake.behave(habit)
    frames, _ = stream(fake)
    assert words(frames, key) == "Let me think."
    assert "think" not in words(frames)


def test_a_tool_may_be_called(fake: FakeServer) -> None:
    fake.behave("tool")
    frames, _ = stream(fake)
    assert reasons(frames) == ["tool_calls"]


def test_requests_may_be_refused_in_two_ways(fake: FakeServer) -> None:
    fake.behave("status=503")
    assert fake.chat().status_code == 503
    fake.behave("html")
    answer = fake.chat()
    assert (answer.status_code, answer.headers["content-type"]) == (
        502,
        "text/html; charset=utf-8",
    )


def test_health_may_be_bad_while_it_answers(fake: FakeServer) -> None:
    fake.behave("unhealthy")
    assert fake.get("/health").status_code == 503
    assert fake.chat().status_code == 200


@pytest.mark.parametrize(
    ("habit", "end"), [("crash-after=2", "cut"), ("core-dies-after=2", "done")]
)
def test_a_crash_in_mid_stream_ends_the_process_with_status_0(
    start: Start, habit: str, end: str
) -> None:
    server = behaving(start, habit)
    frames, ended = stream(server)
    assert (words(frames), reasons(frames), ended) == ("The capital", [], end)
    assert ("error" in frames[-1]) == (end == "done")
    assert server.process.wait(10) == 0


def test_a_dead_engine_core_leaves_a_server_that_says_503_and_ends(start: Start) -> None:
    server = behaving(start, "core-dies-after=0")
    assert server.chat().status_code == 500
    assert server.get("/health").status_code == 503
    assert server.process.wait(10) == 0


# The process.


def test_another_models_name_is_served(start: Start) -> None:
    server = behaving(start, "other-name=somebody/else")
    served = [model["id"] for model in server.get("/v1/models").json()["data"]]
    assert served == ["somebody/else"]
    assert server.chat(model="fake-model").status_code == 404


def test_a_port_is_bound_and_nothing_answers(start: Start) -> None:
    server = behaving(start, "bind-and-hang")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=5),
        pytest.raises(httpx.ReadTimeout),
    ):
        httpx.get(f"{server.url}/health", trust_env=False, timeout=0.3)
    server.process.terminate()
    assert server.process.wait(10) == 0


def test_it_dies_after_it_was_ready(start: Start) -> None:
    server = behaving(start, "die-after-ready=0.2")
    assert "Application startup complete." in server.text()
    assert server.process.wait(10) == 0


def test_it_may_be_called_anything(start: Start) -> None:
    server = behaving(start, "rename=VLLM::EngineCore")
    stat = keeper.read_stat(server.process.pid)
    assert stat
    assert stat.name == "VLLM::EngineCor"
    line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert line.rstrip(b"\0") == b"VLLM::EngineCore"
    assert keeper.environment_value(server.process.pid, keeper.MARKER_VARIABLE) == server.marker


@pytest.mark.parametrize("kind", ["grandchild", "grandchild=bare"])
def test_a_grandchild_gets_away_from_its_parent(start: Start, kind: str) -> None:
    before = set(keeper.process_table())
    server = behaving(start, kind)
    stat = until(lambda: _grandchild(before, server, kind))
    server.known.add(stat.process)  # so that it is ended, even without a marker
    assert stat.parent != server.process.pid
    assert stat.session not in {server.process.pid, stat.process.pid}
    keeper.send(stat.process, signal.SIGTERM)
    server.process.kill()
    server.process.wait()
    assert keeper.is_alive(stat.process)


def _grandchild(before: set[int], server: FakeServer, kind: str) -> keeper.Stat | None:
    """Return the worker that was not there before, once it has its name."""
    for pid, stat in keeper.process_table().items():
        if pid not in before and stat.name == "VLLM::Worker" and _is_ours(pid, server, kind):
            return stat
    return None


def _is_ours(pid: int, server: FakeServer, kind: str) -> bool:
    """Say whether a worker is this server's: by its marker, or by what it has open where it has none."""
    if kind == "grandchild":
        return keeper.environment_value(pid, keeper.MARKER_VARIABLE) == server.marker
    return str(Path(f"/proc/{pid}/fd/2").readlink()) == str(server.log)


def test_term_may_be_ignored(start: Start) -> None:
    server = behaving(start, "ignore-term")
    server.process.terminate()
    assert server.chat().status_code == 200
    assert server.process.poll() is None


def test_term_with_a_stream_open_frees_the_port_and_stays(start: Start) -> None:
    server = behaving(start, "hang-on-term", "silent-after=1")
    with (
        httpx.Client(trust_env=False, timeout=10) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json=FRANCE) as response,
    ):
        assert response.status_code == 200
        server.process.terminate()
        until(lambda: "Waiting for connections to close" in server.text())
        until(lambda: _is_free(server.port))
        assert server.process.poll() is None
    assert server.process.wait(10) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("habit", ["child-ignores-term", "child-own-session"])
def test_an_engine_core_has_habits_too(start: Start, habit: str) -> None:
    server = start("--engine-core", "--behaviour", habit)
    (core,) = server.tree() - {server.identity}
    stat = keeper.read_stat(core.pid)
    assert stat
    assert (stat.session == core.pid) == (habit == "child-own-session")
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert keeper.is_alive(core) == (habit == "child-ignores-term")


def test_a_killed_parent_orphans_its_engine_core(start: Start) -> None:
    server = start("--engine-core")
    (core,) = server.tree() - {server.identity}
    server.process.kill()
    server.process.wait()
    assert keeper.is_alive(core)


def test_an_engine_core_that_is_killed_ends_the_server(start: Start) -> None:
    server = start("--engine-core")
    (core,) = server.tree() - {server.identity}
    keeper.send(core, signal.SIGKILL)
    assert server.process.wait(10) == 0


def test_a_start_may_be_slow_and_cut_short(start: Start) -> None:
    server = start("--start-delay", "60", ready=False)
    until(lambda: "non-default args" in server.text())
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert "listens" not in server.text()


def test_a_flood_of_log_is_rotated_and_bounded() -> None:
    with yard("mhflood") as made:
        inst = made.new()
        launch = Launch(
            argv=(*fake_command(), "--behaviour", "flood=24"),
            host="127.0.0.1",
            port=0,
            served_model="fake-model",
            stop_timeout=2,
        )
        supervisor.spawn(inst, launch, log_max_bytes=1 << 20, log_files=2)
        until(lambda: any("fake vLLM listens" in line for line in supervisor.log_tail(inst)))
        until((inst.folder / "engine.log.1").exists)
        until(lambda: log_size(inst) < 8 << 20)
        assert not (inst.folder / "engine.log.3").exists()


def fake_command() -> tuple[str, ...]:
    return (sys.executable, str(PROGRAM), "--port", "0")


def log_size(inst: supervisor.Instance) -> int:
    """Bytes of the log that is being written: what a keeper keeps small, one look a second."""
    return supervisor.log_path(inst).stat().st_size


# Bad starts.

RECORDED = sorted(
    path.stem
    for path in fake_vllm.LOGS.glob("*.log")
    if path.stem not in {"start", "killed_enginecore", "killed_worker"}
)


@pytest.mark.parametrize("case", [*RECORDED, *fake_vllm.BAD_STARTS])
def test_every_bad_start_ends_with_its_status_and_its_reason(start: Start, case: str) -> None:
    server = start("--behaviour", f"exit={case}", ready=False)
    status = server.process.wait(20)
    assert status == (2 if case in {*fake_vllm.WRONG_USAGE, "usage"} else 1)
    assert vllm_log.failure_reason(server.text().splitlines())


def test_all_bad_starts_of_the_real_one_are_recorded() -> None:
    assert set(RECORDED) >= {
        "path_missing",
        "not_cached_offline",
        "no_network",
        "empty_folder",
        "unknown_flag",
        "bad_dtype",
        "max_model_len_too_big",
        "utilization_too_big",
        "unknown_architecture",
        "wrong_quantization",
        "tensor_parallel_does_not_divide",
        "port_in_use",
        "kv_too_small",
        "kv_too_big",
        "default_memory",
        "corrupt_safetensors",
    }


# Memory, as the fake NVML is told. Sleep mode itself: tests/backends/engines/vllm/test_sleep.py.

MIB = 1 << 20
SLEEPER = ("--enable-sleep-mode", "--gpu-mib", "1000", "--gpus", "0,1")


def held(nvml: Path, server: FakeServer) -> list[int]:
    """MiB on each GPU."""
    files = (nvml.with_name(f"{nvml.name}.held") / f"{server.process.pid}-{gpu}" for gpu in (0, 1))
    return [int(file.read_text()) // MIB for file in files]


def sleeper(start: Start, nvml: Path, *habits: str) -> FakeServer:
    behaviour = [part for habit in habits for part in ("--behaviour", habit)]
    server = start(*SLEEPER, *behaviour, FAKE_NVML=str(nvml), VLLM_SERVER_DEV_MODE="1")
    assert held(nvml, server) == [1000, 1000]
    return server


def test_memory_goes_and_comes_back_with_sleep(start: Start, tmp_path: Path) -> None:
    nvml = tmp_path / "gpus.json"
    server = sleeper(start, nvml)
    server.post("/sleep?level=1")
    assert held(nvml, server) == [100, 100]
    server.post("/wake_up")
    assert held(nvml, server) == [1000, 1000]


def test_memory_may_stay_though_all_signs_say_sleep(start: Start, tmp_path: Path) -> None:
    nvml = tmp_path / "gpus.json"
    server = sleeper(start, nvml, "sleep-frees-nothing")
    server.post("/sleep?level=1")
    assert 'sleep_state="weights_offloaded"} 1.0' in server.get("/metrics").text
    assert server.get("/is_sleeping").json() == {"is_sleeping": True}
    assert held(nvml, server) == [1000, 1000]


def test_memory_may_go_back_slowly(start: Start, tmp_path: Path) -> None:
    nvml = tmp_path / "gpus.json"
    server = sleeper(start, nvml, "release-slowly=0.5")
    server.post("/sleep?level=1")
    seen: set[int] = set()

    def is_back() -> bool:
        now = held(nvml, server)
        seen.update(now)
        return now == [100, 100]

    until(is_back)
    assert len(seen) > 2


def test_sleep_may_be_the_end(start: Start) -> None:
    server = behaving(start, "sleep-dies", VLLM_SERVER_DEV_MODE="1")
    assert server.post("/sleep?level=1").json() == {"status": "sleeping", "level": 1}
    assert server.process.wait(10) == 0


def test_without_dev_mode_there_is_no_sleep(fake: FakeServer) -> None:
    for path in ("/sleep", "/wake_up", "/collective_rpc"):
        assert fake.post(path).status_code == 404


# Ollama.


def ollama_stream(server: Server) -> Iterator[dict[str, Any]]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    with server.client.stream("POST", "/api/chat", json=body, timeout=2) as response:
        for line in response.iter_lines():
            yield json.loads(line)


def test_ollamas_runner_hangs_and_its_server_is_fine(serve: Serve) -> None:
    server = serve("hang-after=2")
    seen: list[Any] = []
    with pytest.raises(httpx.ReadTimeout):
        seen.extend(ollama_stream(server))
    assert len(seen) == 2
    assert server.client.get("/api/version").status_code == 200
    assert server.loaded() == [MODEL]


def test_ollamas_runner_crashes_in_mid_stream_under_status_200(serve: Serve) -> None:
    server = serve("crash-after=2")
    *_, last = ollama_stream(server)
    assert "error" in last
    assert not last.get("done")


def test_ollama_dies_and_orphans_its_runner(serve: Serve) -> None:
    server = serve("die-after=2")
    server.client.post("/api/generate", json={"model": MODEL})
    runner = server.runner()
    with pytest.raises(httpx.HTTPError):
        list(ollama_stream(server))
    assert lives(runner)


def test_ollama_says_it_unloads_and_does_not(serve: Serve) -> None:
    server = serve("unload-never")
    server.client.post("/api/generate", json={"model": MODEL})
    answer = server.client.post("/api/generate", json={"model": MODEL, "keep_alive": 0}).json()
    assert answer["done_reason"] == "unload"
    time.sleep(0.3)  # nothing is to happen: there is no event
    assert server.loaded() == [MODEL]


@pytest.mark.parametrize("habit", ["pull-fail", "pull-cut"])
def test_an_ollama_pull_fails_under_status_200(serve: Serve, habit: str) -> None:
    server = serve(habit)
    lines: list[dict[str, Any]] = []
    ended = ""
    with server.client.stream("POST", "/api/pull", json={"model": "fresh:1b"}) as response:
        assert response.status_code == 200
        try:
            lines.extend(json.loads(line) for line in response.iter_lines())
        except httpx.HTTPError:
            ended = "cut"
    assert not any(line.get("status") == "success" for line in lines)
    assert (ended == "cut") or "error" in lines[-1]


def test_an_ollama_pull_stops_half_way(serve: Serve) -> None:
    server = serve("pull-hang")
    with (
        server.client.stream("POST", "/api/pull", json={"model": "fresh:1b"}, timeout=1) as answer,
        pytest.raises(httpx.ReadTimeout),
    ):
        for _ in answer.iter_lines():
            pass


def test_every_habit_is_in_its_table() -> None:
    for module in (fake_vllm, fake_ollama):
        source = Path(module.__file__).read_text()
        table = (module.__doc__ or "").replace("\n", " ")
        for word in _habits_used(source):
            assert f"``{word}" in table, word


def _habits_used(source: str) -> set[str]:
    code = source.split('"""', 2)[2]
    asked = r"(?:behaviour|habits)\.(?:has|number|text)\(\s*\"([a-z-]+)\""
    return {*re.findall(asked, code), *re.findall(r"due\(\"([a-z-]+)\"\)", code)}
