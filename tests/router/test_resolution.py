from dataclasses import replace

import pytest

from router.errors import NoRoute, UnknownRoute
from router.resolution import Engines, Entry, Registry, Route, Serving, names, resolve

VLLM = Serving("vllm", "qwen")
RUNNING = Engines(serving=(VLLM,), active=VLLM, backends=("vllm", "ollama"))
STOPPED = Engines(why_not="vLLM is not running.", backends=("vllm", "ollama"))
REGISTRY = Registry(
    entries={
        entry.id: entry
        for entry in (
            Entry("default.persona", "active", options={"temperature": 0}),
            Entry("on.ollama", "ollama", "llama"),
            Entry("on.vllm", "vllm", "qwen"),
            Entry("other.model", "vllm", "mistral"),
            Entry("cloud", "openai", "gpt"),
        )
    },
    roles={
        "persona": ["default.persona"],
        "coder": ["on.ollama", "cloud", "on.vllm"],
        "planner": ["cloud", "other.model"],
        "curator": [],
    },
)


def route(engines: Engines = RUNNING, **wanted: str) -> Route:
    return resolve(registry=REGISTRY, engines=engines, **wanted)


def test_with_nothing_asked_for_the_active_backend_answers() -> None:
    assert route() == Route("active", "vllm", "qwen")


def test_a_role_brings_its_options_and_whatever_the_active_backend_serves() -> None:
    expected = Route("active", "vllm", "qwen", {"temperature": 0}, "default.persona", "persona")
    assert route(role="persona") == route(model="role:persona") == expected


def test_the_first_of_a_chain_that_can_answer_does() -> None:
    assert route(role="coder").entry == "on.vllm"


def test_a_role_without_a_chain_is_the_active_backends() -> None:
    assert route(role="curator") == Route("active", "vllm", "qwen", role="curator")


def test_a_registry_id_and_a_served_name_are_models() -> None:
    assert route(model="on.vllm") == Route("vllm", "vllm", "qwen", {}, "on.vllm")
    assert route(model="qwen") == Route("vllm", "vllm", "qwen")


def test_a_chain_in_which_none_can_answer_says_why_for_each() -> None:
    with pytest.raises(NoRoute) as caught:
        route(role="planner")
    assert "provider openai" in caught.value.message
    assert "'mistral', and vllm serves 'qwen'" in caught.value.message


def test_nothing_running_says_what_the_backend_is_doing() -> None:
    for wanted in ({}, {"role": "persona"}, {"model": "default.persona"}, {"model": "qwen"}):
        with pytest.raises(NoRoute, match=r"vLLM is not running\."):
            route(STOPPED, **wanted)
    with pytest.raises(NoRoute, match=r"on\.ollama needs ollama, which is not running"):
        route(RUNNING, model="on.ollama")


def test_while_the_gpu_moves_everything_says_when_to_try_again() -> None:
    moving = replace(STOPPED, why_not="Moving.", why_code="backend_draining", retry_after=7)
    asked = ({}, {"role": "persona"}, {"model": "default.persona"}, {"model": "qwen"})
    for wanted in (*asked, {"model": "on.ollama"}):
        with pytest.raises(NoRoute, match="Moving") as caught:
            route(moving, **wanted)
        assert (caught.value.code, caught.value.retry_after) == ("backend_draining", 7)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(UnknownRoute, match=r"There is: qwen, default\.persona.*role:persona"):
        route(model="gpt-9")
    with pytest.raises(UnknownRoute, match="Roles here: persona, coder"):
        route(role="chef")


def test_an_adapter_is_asked_for_by_its_own_name() -> None:
    engine = replace(VLLM, also=("sql", "law"))
    engines = replace(RUNNING, serving=(engine,), active=engine)
    assert route(engines, model="sql") == Route("vllm", "vllm", "sql")
    entry = Entry("local.sql", "vllm", "sql")
    registry = Registry(entries={entry.id: entry}, roles={"coder": [entry.id]})
    assert resolve(registry=registry, engines=engines, role="coder").model == "sql"
    assert names(registry, engines)[:3] == ["qwen", "sql", "law"]
    assert route(engines).model == "qwen"
