"""Downloads and deletions of vLLM's models, as operations and over REST, from a (fake) Hub into a cache."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.errors import NotAllowed
from accounts.models import User
from audit.models import Event, Outcome
from backends import bus, inventory, selectors, services
from backends.errors import (
    ModelInUse,
    ModelNotOurs,
    OperationConflict,
    UnknownModel,
    WorkerUnavailable,
)
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationState
from backends.operations.runner import run_operations
from tests.fakes.fake_hub import MODEL, TOKEN, FakeHub, Habits, model_files

pytestmark = pytest.mark.usefixtures("transactional_db", "clean_broker")
ROOT = "/api/llm-backend"


@pytest.fixture
def vllm(
    hub: FakeHub,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Backend:
    """vLLM, not even installed; its cache is empty."""
    settings.MH_CACHE, settings.MH_MODELS_DIRS = tmp_path / "cache", [tmp_path / "theirs"]
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "MH_VLLM_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    bus.worker_beat(settings.MH_NODE)
    return Backend.objects.create(
        name="vllm", engine="vllm", node=settings.MH_NODE, state_since=selectors.now()
    )


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def pull(actor: Actor, model: str = MODEL, **more: Any) -> Operation:
    row = services.model_pull(actor=actor, name="vllm", model=model, **more)
    run_operations(settings.MH_NODE)
    return selectors.operation_get(str(row.pk))


def delete(actor: Actor, model: str = MODEL, **more: Any) -> Operation:
    row = services.model_delete(actor=actor, name="vllm", model=model, **more)
    run_operations(settings.MH_NODE)
    return selectors.operation_get(str(row.pk))


def models() -> list[str]:
    return [model["id"] for model in inventory.model_list("vllm")]


def test_a_model_is_downloaded_listed_and_deleted(
    vllm: Backend, owner_actor: Actor, tmp_path: Path
) -> None:
    assert models() == []
    row = pull(owner_actor)
    assert row.state == OperationState.SUCCEEDED, row.error
    assert [step.name for step in row.steps.all()] == ["download"]
    (found,) = inventory.model_list("vllm")
    assert found["id"] == MODEL
    assert (found["architecture"], found["context_length"], found["place"]) == (
        "LlamaForCausalLM", 2048, "hub",
    )  # fmt: skip
    assert found["size_bytes"] > 290_000
    assert (found["loaded"], found["configured"], found["problem"]) == (False, False, "")
    assert inventory.model_list("vllm", "TINY")
    assert inventory.model_list("vllm", "huge") == []

    row = delete(owner_actor)
    assert row.state == OperationState.SUCCEEDED, row.error
    assert models() == []
    assert list((tmp_path / "hf" / "hub").glob("models--*")) == []
    with pytest.raises(UnknownModel):
        delete(owner_actor)
    events = set(Event.objects.values_list("event", flat=True))
    assert {"operation.requested", "operation.succeeded", "operation.delete_refused"} <= events


def test_the_cache_folder_of_the_options_is_filled_and_its_revision_used(
    vllm: Backend,
    owner_actor: Actor,
    hub: FakeHub,
    tmp_path: Path,
) -> None:
    hub.models[MODEL].revisions = ("main", "v2")
    options = {"downloadDir": str(tmp_path / "big"), "model": MODEL, "revision": "v2"}
    services.backend_configure(actor=owner_actor, name="vllm", options=options)
    assert pull(owner_actor).state == OperationState.SUCCEEDED
    assert (tmp_path / "big" / "models--lab--tiny" / "refs" / "v2").exists()


def test_a_failure_says_why_and_names_no_token(
    vllm: Backend,
    owner_actor: Actor,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = pull(owner_actor, "lab/none")
    assert row.state == OperationState.FAILED
    assert row.error["code"] == "model_not_found"
    hub.models[MODEL].gated = True
    assert pull(owner_actor).error["code"] == "model_gated"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert pull(owner_actor).state == OperationState.SUCCEEDED
    assert TOKEN not in str(list(Event.objects.values())) + str(list(Operation.objects.values()))


@pytest.mark.parametrize("name", ["/etc", "../x", "a/b/c", "a b", "~/model", "x--y/z"])
def test_a_name_the_hub_cannot_have_is_refused_at_once(
    vllm: Backend, owner_actor: Actor, name: str
) -> None:
    with pytest.raises(UnknownModel, match="publisher/name"):
        services.model_pull(actor=owner_actor, name="vllm", model=name)
    assert not Operation.objects.exists()
    assert Event.objects.filter(event="operation.pull_refused", outcome=Outcome.FAILURE).exists()


def test_a_model_that_is_half_here_can_be_deleted(
    vllm: Backend,
    owner_actor: Actor,
    hub: FakeHub,
    tmp_path: Path,
) -> None:
    hub.habits = Habits(corrupt=True)
    assert pull(owner_actor).state == OperationState.FAILED
    assert models() == []
    assert delete(owner_actor).state == OperationState.SUCCEEDED
    assert list((tmp_path / "hf" / "hub").glob("*tiny*")) == []


def test_a_model_in_memory_is_not_deleted_and_the_configured_one_only_with_force(
    vllm: Backend, owner_actor: Actor
) -> None:
    pull(owner_actor)
    services.backend_configure(actor=owner_actor, name="vllm", options={"model": MODEL})
    with pytest.raises(ModelInUse, match="configured model") as caught:
        delete(owner_actor)
    assert caught.value.code == "model_is_configured"
    serving = {"state": State.READY, "model": "served-name", "started_options": {"model": MODEL}}
    Backend.objects.filter(name="vllm").update(**serving)
    with pytest.raises(ModelInUse, match="in memory") as caught:
        delete(owner_actor, force=True)
    assert caught.value.code == "model_in_use"
    (found,) = inventory.model_list("vllm")
    assert found["loaded"]
    assert found["configured"]
    Backend.objects.filter(name="vllm").update(state=State.STOPPED, model="")
    assert delete(owner_actor, force=True).state == OperationState.SUCCEEDED


def test_a_model_that_came_into_use_meanwhile_is_not_deleted(
    vllm: Backend, owner_actor: Actor
) -> None:
    pull(owner_actor)
    row = services.model_delete(actor=owner_actor, name="vllm", model=MODEL)
    Backend.objects.filter(name="vllm").update(
        state=State.STARTING, model=MODEL, started_options={"model": MODEL}
    )
    run_operations(settings.MH_NODE)
    assert selectors.operation_get(str(row.pk)).error["code"] == "model_in_use"
    assert models() == [MODEL]


def test_what_is_not_ours_is_not_deleted(
    vllm: Backend,
    owner_actor: Actor,
    tmp_path: Path,
) -> None:
    theirs, ours = tmp_path / "theirs" / "lab" / "llm", tmp_path / "cache" / "models" / "mine"
    for folder in (theirs, ours):
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes(model_files()[name])
    with pytest.raises(ModelNotOurs, match="only reads"):
        delete(owner_actor, "lab/llm")
    with pytest.raises(ModelNotOurs):
        delete(owner_actor, str(theirs))
    assert delete(owner_actor, "mine").state == OperationState.SUCCEEDED
    assert theirs.exists()
    assert not ours.exists()
    assert list(ours.parent.iterdir()) == []


def test_a_model_is_not_deleted_while_it_is_downloaded_nor_the_other_way_round(
    vllm: Backend, owner_actor: Actor
) -> None:
    pull(owner_actor)
    first = services.model_delete(actor=owner_actor, name="vllm", model=MODEL)
    with pytest.raises(OperationConflict, match="being deleted"):
        services.model_pull(actor=owner_actor, name="vllm", model=MODEL)
    services.operation_cancel(actor=owner_actor, operation_id=str(first.pk))
    services.model_pull(actor=owner_actor, name="vllm", model=MODEL)
    with pytest.raises(OperationConflict, match="being downloaded"):
        services.model_delete(actor=owner_actor, name="vllm", model=MODEL)


def test_without_a_worker_it_says_so(vllm: Backend, owner_actor: Actor) -> None:
    bus.worker_gone(settings.MH_NODE)
    with pytest.raises(WorkerUnavailable, match="mh up"):
        services.model_pull(actor=owner_actor, name="vllm", model=MODEL)


def test_standard_users_may_not(vllm: Backend, standard: User) -> None:
    with pytest.raises(NotAllowed):
        services.model_pull(actor=Actor(user=standard, surface="rest"), name="vllm", model=MODEL)


def test_the_same_over_rest(vllm: Backend, as_owner: Client) -> None:
    path = f"{ROOT}/vllm/models"
    answer = as_owner.post(path, {"model": MODEL}, "application/json")
    assert answer.status_code == 202, answer.content
    assert (answer.json()["kind"], answer.json()["model"]) == ("pull", MODEL)
    again = as_owner.post(path, {"model": MODEL}, "application/json")
    assert again.json()["id"] == answer.json()["id"]
    run_operations(settings.MH_NODE)
    (found,) = as_owner.get(path).json()["results"]
    assert set(found) == {
        "id", "path", "size_bytes", "problem", "place", "architecture", "quantization",
        "context_length", "loaded", "configured",
    }  # fmt: skip
    assert found["id"] == MODEL

    for written in (MODEL, MODEL.replace("/", "%2F")):
        gone = as_owner.delete(f"{path}/{written}")
        assert gone.status_code == 202, gone.content
        assert gone.json()["kind"] == "delete"
    run_operations(settings.MH_NODE)
    assert as_owner.get(path).json()["results"] == []
    missing = as_owner.delete(f"{path}/{MODEL}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422), ({"model": ""}, 422), ({"model": "lab/tiny", "x": 1}, 422), ({"model": "a\x00b"}, 422),
        ({"model": "a\tb/c"}, 422), ({"model": "x" * 600}, 422), ([], 422), ({"model": "lab/ü!"}, 404),
    ],
)  # fmt: skip
def test_bad_bodies_are_told_apart_from_bad_models(
    vllm: Backend, as_owner: Client, body: Any, status: int
) -> None:
    answer = as_owner.post(f"{ROOT}/vllm/models", body, "application/json")
    assert answer.status_code == status, answer.content
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "model", ["..%2F..%2Fetc", "%2Fetc%2Fpasswd", "a%00b", "x" * 700, "%0A", "."]
)
def test_deleting_nonsense_deletes_nothing(vllm: Backend, as_owner: Client, model: str) -> None:
    answer = as_owner.delete(f"{ROOT}/vllm/models/{model}")
    assert answer.status_code in {404, 409, 422}, answer.content
    assert not Operation.objects.exists()


def test_a_flag_that_is_none_is_refused(vllm: Backend, as_owner: Client) -> None:
    answer = as_owner.delete(f"{ROOT}/vllm/models/{MODEL}?force=perhaps")
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "force")
