"""Whether a model can answer, and where a person hears that it cannot."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.models import User
from backends import selectors as backends
from backends.engines.base import ModelInfo
from backends.lifecycle import State
from backends.models import Backend, Switchboard
from mhsite.cli.diagnosis import models as doctor_on_models
from router import availability, selectors
from router.availability import Availability, Facts, LocalFacts, availability_of
from router.errors import NoRoute
from router.models import ModelEntry, ProviderAccount, Role, RoleLink
from router.registry_reads import Account
from router.resolution import Entry, Serving
from tests.backends.faults.table import fault


def _info(name: str, problem: str = "") -> ModelInfo:
    return ModelInfo(id=name, path=f"/models/{name}", size_bytes=1, problem=problem)


VLLM = LocalFacts(
    name="vllm",
    title="vLLM",
    is_installed=True,
    serving=Serving("vllm", "qwen"),
    models=[_info("qwen"), _info("mistral"), _info("broken", "its weights are not complete.")],
)
OLLAMA = LocalFacts(
    name="ollama", title="Ollama", is_installed=True, many_models=True, models=[_info("llama")]
)
GONE = LocalFacts(name="gone", title="Gone", is_installed=False, reason="Gone is not installed.")
RUNNING_OLLAMA = LocalFacts(
    name="busy",
    title="Ollama",
    is_installed=True,
    many_models=True,
    serving=Serving("busy", "llama"),
    models=[_info("llama"), _info("phi")],
)
FACTS = Facts(
    local={one.name: one for one in (VLLM, OLLAMA, GONE, RUNNING_OLLAMA)},
    active="vllm",
    accounts={
        "good": Account(name="good", kind="openai", settings=None, ready=True),
        "refused": Account(name="refused", kind="openai", settings=None, ready=True),
        "half": Account(
            name="half", kind="runpod", settings=None, ready=False, why_not="No key is set."
        ),
    },
    refused={"refused": "The key is wrong."},
    kinds=frozenset({"openai", "runpod"}),
)


@pytest.mark.parametrize(
    ("provider", "model", "state", "why"),
    [
        ("active", "", Availability.AVAILABLE, ""),
        ("active", "qwen", Availability.AVAILABLE, ""),
        ("vllm", "mistral", Availability.BACKEND_OFF, "mh vllm switch mistral"),
        ("vllm", "ghost", Availability.NOT_INSTALLED, "mh vllm pull ghost"),
        ("vllm", "broken", Availability.NOT_INSTALLED, "weights are not complete"),
        ("ollama", "llama", Availability.BACKEND_OFF, "mh ollama start"),
        ("ollama", "ghost", Availability.NOT_INSTALLED, "mh ollama pull ghost"),
        ("busy", "phi", Availability.AVAILABLE, ""),
        ("gone", "", Availability.NOT_INSTALLED, "Gone is not installed."),
        ("good", "gpt", Availability.AVAILABLE, ""),
        ("refused", "gpt", Availability.NEEDS_CREDENTIALS, "The key is wrong."),
        ("half", "", Availability.NEEDS_CREDENTIALS, "No key is set."),
        ("openai", "gpt", Availability.NEEDS_CREDENTIALS, "POST /api/providers"),
        ("nobody", "", Availability.NOT_INSTALLED, "no provider 'nobody'"),
    ],
)
def test_a_model_is_available_or_says_why_not(
    provider: str, model: str, state: Availability, why: str
) -> None:
    found, said = availability_of(Entry("x", provider, model), FACTS)
    assert found == state
    assert why in said
    assert bool(said) == (state != Availability.AVAILABLE)


def test_in_server_mode_local_models_need_the_servers_account() -> None:
    server = Facts(local=FACTS.local, accounts=FACTS.accounts, is_server=True, active="vllm")
    assert availability_of(Entry("x", "active"), server)[0] == Availability.NEEDS_CREDENTIALS
    chosen = Facts(
        accounts=FACTS.accounts, local=FACTS.local, is_server=True, server_account="good"
    )
    assert availability_of(Entry("x", "vllm", "ghost"), chosen) == (Availability.AVAILABLE, "")


def test_models_that_nobody_can_list_are_given_the_benefit_of_the_doubt() -> None:
    unknown = LocalFacts(name="a", title="A", is_installed=True, many_models=True, serving=Serving("a", "m"))  # fmt: skip
    assert availability_of(Entry("x", "a", "n"), Facts(local={"a": unknown}))[1] == ""


# -- where a person hears of it


@pytest.fixture
def a_missing_model(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM serves one model; the registry names another one, which is not on this machine."""
    backend = Backend.objects.create(
        name="vllm", engine="vllm", node=settings.MH_NODE, state=State.READY, model="served",
        endpoint="http://127.0.0.1:1",
    )  # fmt: skip
    Switchboard.objects.update_or_create(id=1, defaults={"active_backend": backend})
    monkeypatch.setattr(backends, "backend_models", lambda _name: [_info("served")])
    entry = ModelEntry.objects.create(id="night", provider="vllm", model="not/here")
    RoleLink.objects.create(role=Role.objects.create(name="persona"), entry=entry, position=0)


@fault(28)
@pytest.mark.usefixtures("a_missing_model")
def test_a_model_that_is_not_installed_is_told_by_the_registry_the_doctor_and_the_error(
    owner: User,
) -> None:
    client = Client()
    client.force_login(owner)
    listed = client.get("/api/models/night").json()["availability"]
    assert listed["state"] == "not installed"
    assert "mh vllm pull not/here" in listed["message"]
    role = client.get("/api/roles/persona").json()
    assert (role["available"], role["links"][0]["availability"]["state"]) == (
        False,
        "not installed",
    )

    (finding,) = doctor_on_models()
    assert (finding.good, finding.message[:6]) == (False, "night:")
    assert "mh vllm pull not/here" in finding.message

    for role, model in (("persona", None), (None, "night"), (None, "role:persona")):
        with pytest.raises(NoRoute) as refused:
            selectors.resolved(role=role, model=model)
        assert refused.value.code == "model_not_installed"
        assert "mh vllm pull not/here" in refused.value.message


@pytest.mark.usefixtures("a_missing_model")
def test_a_model_that_is_there_and_not_served_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "backend_models", lambda _name: [_info("not/here")])
    with pytest.raises(NoRoute) as refused:
        selectors.resolved(role="persona")
    assert refused.value.code == "model_not_served"
    assert "Download" not in refused.value.message


@pytest.mark.django_db
def test_the_models_of_a_foreign_engine_are_what_the_observer_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody_may_look(_name: str) -> Any:
        raise AssertionError(tmp_path)

    monkeypatch.setattr(backends, "backend_models", nobody_may_look)
    monkeypatch.setattr(backends, "models_seen", lambda _name: ["llama"])
    Backend.objects.create(
        name="ollama", engine="ollama", node=settings.MH_NODE, state=State.READY, attached=True,
        endpoint="http://127.0.0.1:1", model="llama",
    )  # fmt: skip
    facts = availability.local_facts()["ollama"]
    assert facts.found("llama") is not None
    assert availability_of(Entry("x", "ollama", "phi"), Facts(local={"ollama": facts}))[0] == (
        Availability.NOT_INSTALLED
    )


@pytest.mark.django_db
def test_an_account_whose_credentials_were_refused_says_so() -> None:
    ProviderAccount.objects.create(
        name="openai", kind="openai", check_good=False, check_message="The key is wrong."
    )
    state, why = availability_of(Entry("x", "openai", "gpt"), availability.facts_now())
    assert state == Availability.NEEDS_CREDENTIALS
    assert "The key is wrong." in why
