"""Ollama's models as operations: with its server, with one for the moment, and when that is stopped meanwhile."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections

from accounts.actors import Actor
from backends import inventory, selectors, services, supervisor
from backends.engines.ollama import OllamaEngine, store
from backends.errors import BackendNotRunning, EngineNotInstalled, ModelInUse, UnknownModel
from backends.models import Backend, Lane, Operation, OperationState
from backends.operations import library
from backends.operations.runner import run_operations
from tests.backends.engines.ollama.conftest import MODEL, until
from tests.backends.engines.ollama.test_operations import row, run

pytestmark = pytest.mark.process
NEW = "llama3.2:1b"
Make = Callable[..., Backend]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert supervisor.find(settings.MH_HOME, "ollama.library") == []


def pull(actor: Actor, model: str = NEW) -> Operation:
    return run(services.model_pull, actor, model=model)


def delete(actor: Actor, model: str, **more: bool) -> Operation:
    return run(services.model_delete, actor, model=model, **more)


def names() -> list[str]:
    return [model["id"] for model in inventory.model_list("ollama")]


def in_thread() -> threading.Thread:
    def work() -> None:
        try:
            run_operations(settings.MH_NODE, Lane.MODELS)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def bytes_told(operation: Operation) -> bool:
    steps = selectors.operation_get(str(operation.pk)).steps.all()
    return any(" of " in step.message for step in steps)


def test_a_stopped_ollama_downloads_and_deletes_and_nothing_of_it_stays(
    ollama: Make,
    owner_actor: Actor,
    tmp_path: Path,
) -> None:
    ollama()
    done = pull(owner_actor)
    assert done.state == OperationState.SUCCEEDED, done.error
    assert names() == [NEW, MODEL]
    found = inventory.model_list("ollama", "llama3")[0]
    assert (found["architecture"], found["quantization"], found["place"]) == (
        "llama",
        "Q4_1",
        "store",
    )
    assert row().state == "stopped"
    with library.server(row()) as target:
        details = OllamaEngine().show(target, NEW, timeout=5)
    assert (details.family, details.context_length) == ("llama", 8192)

    assert delete(owner_actor, NEW).state == OperationState.SUCCEEDED
    assert names() == [MODEL]
    with pytest.raises(UnknownModel):
        delete(owner_actor, NEW)
    with pytest.raises(ModelInUse, match="configured"):
        delete(owner_actor, MODEL)
    assert delete(owner_actor, MODEL, force=True).state == OperationState.SUCCEEDED


def test_a_running_ollama_is_used_and_what_it_has_loaded_stays(
    ollama: Make,
    owner_actor: Actor,
) -> None:
    ollama()
    run(services.backend_start, owner_actor)
    for_the_moment = Path(settings.MH_HOME) / "engines" / "ollama.library"
    before = set(for_the_moment.glob("*"))
    assert pull(owner_actor).state == OperationState.SUCCEEDED
    assert set(for_the_moment.glob("*")) <= before
    assert [model["id"] for model in inventory.model_list("ollama") if model["loaded"]] == [MODEL]
    with pytest.raises(ModelInUse, match="in memory"):
        delete(owner_actor, MODEL, force=True)
    assert delete(owner_actor, NEW).state == OperationState.SUCCEEDED
    assert run(services.backend_stop, owner_actor).state == OperationState.SUCCEEDED


def test_a_name_without_its_tag_is_the_same_model(ollama: Make, owner_actor: Actor) -> None:
    ollama()
    pull(owner_actor, "team/small")
    assert names() == [MODEL, "team/small:latest"]
    assert delete(owner_actor, "team/small").state == OperationState.SUCCEEDED


def test_a_model_nobody_has_fails_clearly(ollama: Make, owner_actor: Actor) -> None:
    ollama()
    done = pull(owner_actor, "missing:1b")
    assert done.state == OperationState.FAILED
    assert done.error["code"] == "model_not_found"
    assert "Check its name" in done.error["message"]


def test_a_download_that_is_cancelled_stops_in_ollama_too(
    ollama: Make,
    owner_actor: Actor,
    tmp_path: Path,
) -> None:
    ollama("pull-hang", "pull=1")
    asked = services.model_pull(actor=owner_actor, name="ollama", model=NEW, foreground=True)
    worker = in_thread()
    until(lambda: bytes_told(asked))
    services.operation_cancel(actor=owner_actor, operation_id=str(asked.pk))
    worker.join(40)
    assert selectors.operation_get(str(asked.pk)).state == OperationState.CANCELLED
    assert store.find(tmp_path / "models", NEW) is None


def test_a_download_goes_on_when_the_server_that_does_it_is_stopped(
    ollama: Make,
    owner_actor: Actor,
) -> None:
    ollama("pull=3")
    run(services.backend_start, owner_actor)
    asked = services.model_pull(actor=owner_actor, name="ollama", model=NEW, foreground=True)
    worker = in_thread()
    until(lambda: bytes_told(asked))
    services.backend_stop(actor=owner_actor, name="ollama", foreground=True)
    run_operations(settings.MH_NODE, Lane.GPU)
    assert row().state == "stopped"
    worker.join(30)
    done = selectors.operation_get(str(asked.pk))
    assert done.state == OperationState.SUCCEEDED, done.error
    assert NEW in names()


def test_without_a_program_it_says_what_to_do(
    ollama: Make,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = ollama()
    monkeypatch.setenv("MH_OLLAMA_BIN", "/nowhere/ollama")
    assert pull(owner_actor).error["code"] == "engine_not_installed"
    with pytest.raises(EngineNotInstalled), library.server(backend):
        pass


def test_a_server_for_the_moment_that_does_not_start_says_why(
    ollama: Make,
    owner_actor: Actor,
) -> None:
    backend = ollama("fail-start")
    with (
        pytest.raises(BackendNotRunning, match=r"could not be started.*mh ollama start"),
        library.server(backend),
    ):
        pass


def test_what_a_killed_runner_left_is_cleared_away(ollama: Make) -> None:
    backend = ollama()
    left = library.server(backend)
    left.__enter__()
    assert supervisor.find(settings.MH_HOME, "ollama.library")
    library.clear_away(backend)
    assert supervisor.find(settings.MH_HOME, "ollama.library") == []
    left.__exit__(None, None, None)
