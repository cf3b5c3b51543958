"""etc/llm-backend.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from accounts.actors import Actor
from backends import config_file, selectors, services
from backends.errors import InvalidOptions

KNOWN = frozenset({"vllm"})
GOOD: dict[str, Any] = {
    "$schema": "./schemas/llm-backend.json",
    "version": "1.0.0",
    "activeBackend": "vllm",
    "startupBehavior": "fallback",
    "ollama": {"endpoint": "http://localhost:11434", "autoStart": False},
    "vllm": {"endpoint": "http://localhost:8123", "autoStart": True, "maxModelLen": 4096},
}


def test_the_endpoint_becomes_host_and_port() -> None:
    section = config_file.parse(GOOD, KNOWN).backends["vllm"]
    assert section.options == {"maxModelLen": 4096, "host": "127.0.0.1", "port": 8123}
    assert section.auto_start is True


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"startupBehavior": "sometimes"}, "startupBehavior"),
        ({"version": "9"}, "version"),
        ({"vllm": []}, "vllm"),
        ({"vllm": {"endpoint": "ftp://x"}}, "vllm.endpoint"),
        ({"vllm": {"endpoint": 5}}, "vllm.endpoint"),
        ({"vllm": {"autoStart": "yes"}}, "vllm.autoStart"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOptions, match=named.replace(".", r"\.")):
        config_file.parse({**GOOD, **change}, KNOWN)


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_a_file_that_is_no_object_is_an_error(data: Any) -> None:
    with pytest.raises(InvalidOptions):
        config_file.parse(data, KNOWN)


@pytest.mark.django_db
def test_the_file_is_taken_over_whole() -> None:
    services.backends_ensure()
    left_out = services.config_import(actor=Actor.system(), data=GOOD)
    row = selectors.backend_get("vllm")
    assert row.options == {"maxModelLen": 4096, "host": "127.0.0.1", "port": 8123}
    assert row.auto_start is True
    assert selectors.switchboard().startup_behavior == "fallback"
    assert selectors.switchboard().active_backend == row
    assert all("ollama" in sentence for sentence in left_out)


@pytest.mark.django_db
def test_a_wrong_option_leaves_everything_as_it_was() -> None:
    services.backends_ensure()
    wrong = {**GOOD, "vllm": {"maxModelLen": -5}}
    with pytest.raises(InvalidOptions, match="maxModelLen"):
        services.config_import(actor=Actor.system(), data=wrong)
    assert selectors.backend_get("vllm").options == {}
    assert selectors.switchboard().startup_behavior == "auto"


def test_the_shipped_file_is_valid() -> None:
    root = Path(__file__).resolve().parents[2]
    data = json.loads((root / "etc" / "llm-backend.json").read_text())
    assert config_file.parse(data, KNOWN).startup_behavior == "auto"
