"""Models on the command line, without a worker: pull, list, describe, delete, and the doctors."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from backends import selectors, supervisor
from backends.models import Backend
from backends.ports import free_port
from mhsite import cli
from mhsite.processes import boot
from tests.fakes import fake_ollama
from tests.mhsite.test_up import until

pytestmark = pytest.mark.process
MODEL = "smollm2:135m"
NEW = "llama3.2:1b"


@pytest.fixture
def ollama(
    transactional_db: None, clean_broker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., None]]:
    """An Ollama that is installed, has a model, and does not run."""
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(boot, "SETTINGS_FILES", ())
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")

    def make(*habits: str) -> None:
        store, binary = tmp_path / "models", tmp_path / "program" / "ollama"
        fake_ollama.add_model(store, MODEL)
        fake_ollama.make_binary(binary, FAKE_OLLAMA_HABITS=",".join(habits))
        monkeypatch.setenv("MH_OLLAMA_BIN", str(binary))
        boot.database_prepare()
        options = {"model": MODEL, "modelsDir": str(store), "port": free_port()}
        Backend.objects.filter(name="ollama").update(options=options, node=settings.MH_NODE)

    yield make
    for inst in supervisor.find(settings.MH_HOME, "ollama.library"):
        supervisor.stop(inst, grace=0.2)


def answer(capfd: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capfd.readouterr().out)


def test_a_model_is_pulled_listed_described_and_deleted(
    ollama: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    ollama("pull-bytes=2000000")
    assert cli.run(["ollama", "pull", NEW]) == 0
    out, err = capfd.readouterr()
    assert out == f"{NEW} is here (2 MB).\n"
    assert "download" in err
    assert cli.run(["ollama", "models", "llama"]) == 0
    assert capfd.readouterr().out.startswith(f"{NEW}\t")
    assert cli.run(["ollama", "models", "--json"]) == 0
    listed = {model["id"]: model for model in answer(capfd)["models"]}
    assert (listed[NEW]["quantization"], listed[MODEL]["configured"]) == ("Q4_1", True)
    assert cli.run(["ollama", "show", NEW]) == 0
    shown = capfd.readouterr().out
    assert "Family: llama" in shown
    assert "Context length: 8192" in shown
    assert cli.run(["ollama", "show", "nosuch", "--json"]) == 1
    assert answer(capfd)["error"]["code"] == "model_not_found"
    assert cli.run(["ollama", "rm", NEW, "--json"]) == 0
    assert answer(capfd)["state"] == "succeeded"
    assert cli.run(["ollama", "rm", MODEL]) == 1
    assert "configured model" in capfd.readouterr().err
    assert cli.run(["ollama", "rm", MODEL, "--force"]) == 0
    assert supervisor.find(settings.MH_HOME, "ollama.library") == []


def test_a_pull_that_fails_ends_with_1_and_says_why(
    ollama: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    ollama()
    assert cli.run(["ollama", "pull", "missing:1b"]) == 1
    assert "Check its name" in capfd.readouterr().err


def test_ctrl_c_cancels_a_pull(
    ollama: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    ollama("pull-hang", "pull=1")

    def interrupt() -> None:
        until(lambda: supervisor.find(settings.MH_HOME, "ollama.library"), 20, "a server")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.run(["ollama", "pull", NEW]) == 1
    thread.join()
    assert "cancelled" in capfd.readouterr().err
    assert selectors.operation_list(1)[0].state == "cancelled"
    assert supervisor.find(settings.MH_HOME, "ollama.library") == []


def test_a_doctor_says_what_is_wrong_and_what_to_do(
    ollama: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ollama()
    assert cli.run(["ollama", "doctor", "--json"]) == 0
    found = {entry["subject"]: entry for entry in answer(capfd)["findings"]}
    assert found["installed"]["message"].startswith("Ollama 0.32.15")
    assert found["model"]["message"] == f"{MODEL} is here"
    assert set(found) >= {"gpu", "port", "state", "last start"}
    Backend.objects.filter(name="ollama").update(
        state="failed", failure="Ollama ended.", failure_detail="Error: out of memory"
    )
    assert cli.run(["ollama", "config", "model", "none:1b"]) == 0
    capfd.readouterr()
    assert cli.run(["ollama", "doctor"]) == 1
    text = capfd.readouterr().out
    assert "mh ollama pull none:1b" in text
    assert "Error: out of memory" in text
    monkeypatch.setenv("MH_OLLAMA_BIN", str(tmp_path / "nowhere"))
    assert cli.run(["ollama", "doctor"]) == 3


def test_a_vllm_that_is_not_installed_has_a_doctor_too(
    ollama: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ollama()
    monkeypatch.setenv("MH_VLLM_PYTHON", str(tmp_path / "nowhere"))
    assert cli.run(["vllm", "doctor"]) == 3
    assert "does not exist" in capfd.readouterr().out
