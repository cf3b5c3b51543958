"""Start, restart and stop of Ollama as operations, with the real steps, keeper and database."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connections

from accounts.actors import Actor
from backends import selectors, services, supervisor
from backends.engines.ollama import OllamaEngine
from backends.models import Backend, Operation
from backends.operations.runner import run_operations
from router.schemas import ChatRequest
from router.services import chat_complete
from tests.backends.conftest import FakeBackend
from tests.backends.engines.ollama.conftest import MODEL, lives, until
from tests.fakes import fake_ollama

pytestmark = pytest.mark.process


def run(kind: Callable[..., Operation], actor: Actor, **changes: Any) -> Operation:
    asked = kind(actor=actor, name="ollama", foreground=True, **changes)
    run_operations(settings.MH_NODE)
    return selectors.operation_get(str(asked.pk))


def row() -> Backend:
    return Backend.objects.get(name="ollama")


def test_start_chat_model_change_and_stop(
    ollama: Callable[..., Backend], owner_actor: Actor, tmp_path: Path
) -> None:
    ollama()
    assert run(services.backend_start, owner_actor).state == "succeeded"
    assert (row().state, row().model, row().version) == ("ready", MODEL, "0.32.15")
    target = selectors.serving_target("ollama").target
    assert OllamaEngine().loaded_model(target, timeout=5) == MODEL

    fake_ollama.add_model(tmp_path / "models", "other:1b")
    assert run(services.backend_restart, owner_actor, model="other:1b").state == "succeeded"
    assert row().model == "other:1b"
    assert selectors.backend_options(row()).model == "other:1b"  # kept, over the file's name for it

    (inst,) = supervisor.find(settings.MH_HOME, "ollama")
    pids = supervisor.tree(inst)
    assert len(pids) == 2
    assert run(services.backend_stop, owner_actor).state == "succeeded"
    assert row().state == "stopped"
    assert not any(lives(pid) for pid in pids)


def test_a_model_that_is_not_there_is_refused_before_anything_is_started(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama()
    ended = run(services.backend_start, owner_actor, model="nope:1b")
    assert ended.state == "failed"
    assert ended.error
    assert ended.error["code"] == "model_not_found"
    assert "mh ollama pull nope:1b" in ended.error["message"]
    assert row().state == "stopped"


def test_a_model_that_does_not_load_is_a_failed_start_with_the_reason(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama("crash-load")
    ended = run(services.backend_start, owner_actor)
    assert ended.state == "failed"
    assert ended.error
    assert "could not load smollm2:135m" in ended.error["message"]
    assert "process has terminated" in ended.error["detail"]
    assert row().state == "failed"
    assert supervisor.find(settings.MH_HOME, "ollama") == []


def test_a_chat_reaches_ollama_through_the_router(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama()
    assert run(services.backend_start, owner_actor).state == "succeeded"
    for asked in ({}, {"model": MODEL}):
        request = ChatRequest(messages=[{"role": "user", "content": "hi"}], **asked)
        answer = async_to_sync(chat_complete)(actor=owner_actor, request=request)
        assert answer["content"]
        assert (answer["backend"], answer["model"]) == ("ollama", MODEL)
        assert answer["usage"]["completion_tokens"] > 0


def test_without_load_on_start_it_is_ready_with_nothing_in_memory(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama(loadOnStart=False)
    assert run(services.backend_start, owner_actor).state == "succeeded"
    assert OllamaEngine().loaded(selectors.serving_target("ollama").target, timeout=5) == []


def test_a_load_says_how_far_it_is_and_can_be_cancelled(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama("load=60")
    asked = services.backend_start(actor=owner_actor, name="ollama", foreground=True)

    def work() -> None:
        try:
            run_operations(settings.MH_NODE)
        finally:
            connections.close_all()

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: asked.steps.filter(name="warm", message="loading the model").exists())
    services.operation_cancel(actor=owner_actor, operation_id=str(asked.pk))
    worker.join(15)
    assert selectors.operation_get(str(asked.pk)).state == "cancelled"
    assert row().state == "stopped"
    assert supervisor.find(settings.MH_HOME, "ollama") == []


def test_a_load_that_takes_longer_than_the_start_limit_is_ended(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama("load=60", startTimeoutSeconds=5)
    ended = run(services.backend_start, owner_actor)
    assert ended.error
    assert "startTimeoutSeconds" in ended.error["message"]
    assert supervisor.find(settings.MH_HOME, "ollama") == []


def test_the_files_name_of_the_model_is_stored_and_asked_for_as_ours(
    ollama: Callable[..., Backend], owner_actor: Actor
) -> None:
    ollama()
    services.backend_configure(
        actor=owner_actor, name="ollama", options={"defaultModel": "other:1b"}
    )
    assert row().options["model"] == "other:1b"
    assert "defaultModel" not in row().options
    first = services.backend_start(
        actor=owner_actor, name="ollama", options={"defaultModel": MODEL}, foreground=True
    )
    assert first.request == {"model": MODEL}
    again = services.backend_start(actor=owner_actor, name="ollama", model=MODEL, foreground=True)
    assert again.pk == first.pk, "the same thing is asked for"
    services.backend_configure(actor=owner_actor, name="ollama", options={"defaultModel": None})
    assert "model" not in row().options


def test_a_switch_to_ollama_and_back_leaves_nothing_of_it(
    ollama: Callable[..., Backend], fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    other = fake()
    ollama(parking="stop")
    assert run(services.backend_start, owner_actor).state == "succeeded"
    (inst,) = supervisor.find(settings.MH_HOME, "ollama")
    pids = supervisor.tree(inst)
    to_fake = services.backend_switch(actor=owner_actor, name="fake", foreground=True)
    other.run()
    assert selectors.operation_get(str(to_fake.pk)).state == "succeeded"
    assert not any(lives(pid) for pid in pids)
    assert run(services.backend_switch, owner_actor, model=MODEL).state == "succeeded"
    assert (row().state, row().model) == ("ready", MODEL)
    assert other.pids() == ()


def test_a_switch_to_an_ollama_that_cannot_load_is_rolled_back(
    ollama: Callable[..., Backend], fake: Callable[..., FakeBackend], owner_actor: Actor
) -> None:
    other = fake()
    ollama("crash-load")
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    other.run()
    ended = run(services.backend_switch, owner_actor)
    assert ended.state == "rolled_back"
    assert ended.error
    assert "could not load smollm2:135m" in ended.error["message"]
    assert "Fake engine serves fake-model again." in ended.error["message"]
    assert other.row.state == "ready"
    assert supervisor.find(settings.MH_HOME, "ollama") == []
