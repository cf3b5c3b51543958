"""What runs is compared with what is wanted, without starting anything."""

from typing import Any, ClassVar

import pytest
from pydantic import Field

from backends import launch_spec
from backends.engines.base import Capabilities, Engine, Options, facts
from backends.engines.ollama import OllamaEngine
from backends.engines.vllm import VllmEngine
from backends.launch_spec import Change, compare


def change(engine: Engine, runs: dict[str, Any], wanted: dict[str, Any]) -> Change:
    options = engine.Options
    return compare(engine, options.model_validate(runs), options.model_validate(wanted)).change


def test_the_same_options_change_nothing() -> None:
    assert change(VllmEngine(), {"maxModelLen": 4096}, {"maxModelLen": 4096}) == Change.NOTHING


def test_a_default_said_aloud_is_no_change() -> None:
    assert change(VllmEngine(), {}, {"port": 8000, "maxModelLen": None}) == Change.NOTHING


@pytest.mark.parametrize(
    "wanted",
    [{"maxModelLen": 4096}, {"model": "other/model"}, {"port": 8001}, {"apiKey": "a-new-secret"}],
)
def test_what_vllm_reads_at_its_start_takes_a_restart(wanted: dict[str, Any]) -> None:
    assert change(VllmEngine(), {}, wanted) == Change.RESTART


@pytest.mark.parametrize(
    "wanted",
    [{"drainSeconds": 60}, {"stopTimeoutSeconds": 99}, {"parking": "stop"}, {"shareGpu": True}],
)
def test_options_that_say_they_need_no_restart_never_restart(wanted: dict[str, Any]) -> None:
    for engine in (VllmEngine(), OllamaEngine()):
        assert change(engine, {}, wanted) == Change.NOTHING


def test_another_model_is_loaded_where_the_engine_serves_many() -> None:
    assert change(OllamaEngine(), {"model": "a:1b"}, {"model": "b:1b"}) == Change.LOAD
    both = {"model": "b:1b", "numParallel": 2}
    assert change(OllamaEngine(), {"model": "a:1b"}, both) == Change.RESTART


def test_the_differing_options_are_named() -> None:
    one = OllamaEngine.Options.model_validate({})
    two = OllamaEngine.Options.model_validate({"model": "b:1b", "drainSeconds": 1})
    assert set(compare(OllamaEngine(), one, two).options) == {"model", "drainSeconds"}


class _Mute(Options):
    """Options of somebody who says nothing about restarts."""

    model: str = "one"
    flavour: str = "plain"
    colour: str = Field("red", json_schema_extra=facts("Paint", restart=False))


def test_an_option_that_says_nothing_of_restarts_takes_one() -> None:
    class Mute(VllmEngine):
        Options: ClassVar[Any] = _Mute
        capabilities: ClassVar[Capabilities] = Capabilities()

    assert change(Mute(), {}, {"flavour": "sweet"}) == Change.RESTART
    assert change(Mute(), {}, {"colour": "blue"}) == Change.NOTHING


def test_what_is_kept_is_split_again() -> None:
    kept = launch_spec.kept({"port": 1}, "sealed")
    assert launch_spec.options_of(kept) == {"port": 1}
    assert launch_spec.token_of(kept) == "sealed"
    assert launch_spec.token_of({"port": 1}) is None
    assert launch_spec.token_of(None) is None
