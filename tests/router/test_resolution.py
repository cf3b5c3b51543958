from dataclasses import replace
from typing import Any

import pytest

from backends.selectors import Wait
from router.errors import NoRoute, UnknownRoute
from router.resolution import (
    Chain,
    Cloud,
    Clouds,
    Engines,
    Entry,
    Registry,
    Route,
    Serving,
    WhenOff,
    names,
    resolve,
    resolve_chain,
)
from tests.backends.faults.table import fault

CLOUDS = Clouds({"openai": Cloud("openai"), "runpod": Cloud("runpod")})

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


def off(**more: Any) -> Entry:
    """An entry on Ollama, which is off."""
    return Entry("local", "ollama", "llama", **more)


def chain_of(*entries: Entry, engines: Engines = RUNNING, clouds: Clouds = CLOUDS) -> Chain:
    known = {entry.id: entry for entry in entries}
    registry = Registry(entries=known, roles={"coder": list(known)})
    return resolve_chain(registry=registry, engines=engines, clouds=clouds, role="coder")


def on_demand(backend: str) -> Engines:
    return replace(RUNNING, waits=(Wait(backend, "On demand.", on_demand=True),))


def test_what_is_off_is_passed_over_unless_its_entry_says_otherwise() -> None:
    cloud = Entry("cloud", "openai", "gpt")
    assert [route.entry for route in chain_of(off(), cloud).routes] == ["cloud"]
    waiting = chain_of(off(when_off=WhenOff.WAIT), cloud, engines=on_demand("ollama"))
    assert waiting.routes == ()
    assert waiting.refusal
    assert waiting.refusal.wait
    assert waiting.refusal.wait.wanted == "llama"
    # Where a wait does not help, nothing is waited for.
    assert chain_of(off(when_off=WhenOff.WAIT), cloud).routes[0].entry == "cloud"
    refused = chain_of(off(when_off=WhenOff.ERROR), cloud, engines=on_demand("ollama"))
    assert refused.routes == ()
    assert refused.refusal
    assert refused.refusal.wait is None
    (substitute,) = chain_of(off(when_off=WhenOff.SUBSTITUTE)).routes
    assert (substitute.backend, substitute.model, substitute.entry) == ("vllm", "qwen", "local")


def test_every_link_that_can_answer_is_in_the_chain_in_order() -> None:
    links = (Entry("a", "vllm"), off(), Entry("b", "openai", "gpt"), Entry("c", "active"))
    found = chain_of(*links)
    assert [route.entry for route in found.routes] == ["a", "b", "c"]
    assert found.is_direct
    assert not chain_of(off(), Entry("a", "vllm")).is_direct


@fault(27)
def test_a_cloud_model_is_never_the_local_engines_and_needs_none() -> None:
    cloud = Entry("cloud", "openai", "gpt")
    for engines in (RUNNING, STOPPED):
        for clouds in (CLOUDS, replace(CLOUDS, is_server=True, server="runpod")):
            (route,) = chain_of(cloud, engines=engines, clouds=clouds).routes
            assert (route.provider, route.backend, route.model) == ("openai", "", "gpt")


@fault(27)
def test_in_server_mode_what_names_a_local_provider_is_answered_by_the_server() -> None:
    clouds = replace(CLOUDS, is_server=True, server="runpod")
    for local in (Entry("a", "active"), Entry("b", "vllm", "qwen"), off()):
        for engines in (RUNNING, STOPPED):
            (route,) = chain_of(local, engines=engines, clouds=clouds).routes
            assert (route.provider, route.backend, route.model) == ("runpod", "", local.model)
    found = resolve(registry=REGISTRY, engines=STOPPED, clouds=clouds)
    assert found.provider == "runpod"
    nowhere = chain_of(Entry("a", "active"), clouds=Clouds(is_server=True))
    assert nowhere.refusal
    assert "server mode" in nowhere.refusal.message


def test_an_account_that_cannot_be_used_says_what_to_do() -> None:
    clouds = Clouds({"openai": Cloud("openai", "Its key is missing: mh config import.")})
    found = chain_of(Entry("cloud", "openai", "gpt"), clouds=clouds)
    assert found.refusal
    assert found.refusal.code == "needs_credentials"
    assert "Its key is missing" in found.refusal.message


@fault(29)
def test_options_of_a_role_win_over_its_entries_and_nought_is_a_value() -> None:
    entry = Entry("a", "vllm", options={"temperature": 0.7, "seed": 0, "top_p": 0.5})
    registry = Registry(
        {"a": entry}, {"coder": ["a"]}, role_options={"coder": {"temperature": 0, "max_tokens": 5}}
    )
    found = resolve(registry=registry, engines=RUNNING, role="coder")
    assert found.options == {"temperature": 0, "seed": 0, "top_p": 0.5, "max_tokens": 5}
    assert resolve(registry=registry, engines=RUNNING, model="a").options == entry.options
