"""The plugin against real vLLM, without the rest of the site."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from backends.engines.base import Launch, Progress, Target
from backends.engines.vllm import VllmEngine, places
from backends.ports import free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

ENGINE = VllmEngine()
KEY = "a-key-for-the-test"


@dataclass
class Running:
    launch: Launch
    target: Target
    log: Path
    stages: list[Progress]


def end(process: subprocess.Popen[bytes]) -> None:
    """End the whole tree: vLLM's children stay in its session, and may outlive it."""
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(children, timeout=10)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ENGINE.install(lambda fraction, message: None)
    folder = tmp_path_factory.mktemp("vllm")
    options = ENGINE.Options(model=places.DEMO_MODEL, port=free_port(), apiKey=KEY)
    assert ENGINE.preflight(options) == []
    launch = ENGINE.launch(options)
    target = Target(endpoint=launch.endpoint, served_model=launch.served_model, api_key=KEY)
    log = folder / "engine.log"
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.argv,
            env=env | launch.env | launch.secret_env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Running(launch, target, log, wait_until_ready(process, target, log, launch))
    finally:
        end(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], target: Target, log: Path, launch: Launch
) -> list[Progress]:
    stages: list[Progress] = []
    deadline = time.monotonic() + launch.start_timeout
    while not ENGINE.is_ready(target, timeout=2):
        lines = log.read_text(errors="replace").splitlines()
        assert process.poll() is None, ENGINE.failure_reason(lines)
        assert time.monotonic() < deadline, lines[-1]
        stage = ENGINE.progress(lines)
        if stage and stage not in stages:
            stages.append(stage)
        time.sleep(0.05)
    return stages


def test_it_becomes_ready_and_says_how_far_it_is(running: Running) -> None:
    fractions = [stage.fraction for stage in running.stages]
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)


def test_it_answers_a_question_rightly(running: Running) -> None:
    ENGINE.warm_up(running.target, timeout=60)
    question = {
        "model": places.DEMO_MODEL,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    }
    answer = httpx.post(
        f"{running.target.endpoint}/v1/chat/completions",
        json=question,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=120,
        trust_env=False,
    )
    assert answer.json()["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_it_says_what_it_is(running: Running) -> None:
    assert ENGINE.is_healthy(running.target, timeout=5)
    assert ENGINE.loaded_model(running.target, timeout=5) == places.DEMO_MODEL
    assert ENGINE.version(running.target, timeout=5) == ENGINE.detect().version
    metrics = ENGINE.metrics(running.target, timeout=5)
    assert metrics.running == 0
    assert metrics.asleep is False
    assert metrics.kv_cache_tokens


def test_it_is_not_ready_under_another_name(running: Running) -> None:
    other = Target(endpoint=running.target.endpoint, served_model="other", api_key=KEY)
    assert not ENGINE.is_ready(other, timeout=5)


def test_the_key_is_asked_for_and_is_not_in_the_process_list(running: Running) -> None:
    assert httpx.get(f"{running.target.endpoint}/v1/models", trust_env=False).status_code == 401
    assert KEY not in " ".join(running.launch.argv)
    assert KEY not in running.log.read_text(errors="replace")
