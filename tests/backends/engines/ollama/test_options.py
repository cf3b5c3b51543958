from typing import Any

import pytest
from pydantic import ValidationError

from backends.config_file import parse
from backends.engines.ollama import OllamaOptions


def test_the_files_name_of_the_model_is_accepted() -> None:
    assert OllamaOptions.model_validate({"defaultModel": "llama3.2:1b"}).model == "llama3.2:1b"
    assert OllamaOptions.model_validate({"model": "llama3.2:1b"}).model == "llama3.2:1b"
    assert OllamaOptions.file_names == {"model": "defaultModel"}
    assert OllamaOptions().model == "qwen3:14b"


def test_of_both_names_the_one_said_last_counts() -> None:
    stored = {"defaultModel": "old:1b"}
    assert OllamaOptions.model_validate({**stored, "model": "new:1b"}).model == "new:1b"
    stored = {"model": "old:1b"}
    assert OllamaOptions.model_validate({**stored, "defaultModel": "new:1b"}).model == "new:1b"


def test_the_contracts_section_is_read() -> None:
    section = {
        "endpoint": "http://localhost:11434",
        "autoStart": False,
        "defaultModel": "qwen3:14b",
    }
    found = parse({"ollama": section}, frozenset({"ollama"})).backends["ollama"]
    options = OllamaOptions.model_validate(found.options)
    assert (options.host, options.port, options.model) == ("127.0.0.1", 11434, "qwen3:14b")


@pytest.mark.parametrize(
    "values",
    [
        {"model": ""},
        {"model": "-x"},
        {"model": "a b"},
        {"model": "a/b/c/d"},
        {"model": "../../etc/passwd"},
        {"model": 1},
        {"keepAlive": "banana"},
        {"keepAlive": "5 m"},
        {"keepAlive": ""},
        {"keepAlive": True},
        {"keepAlive": "5m\nX=1"},
        {"port": 0},
        {"host": "a b"},
        {"contextLength": 0},
        {"numParallel": 0},
        {"maxLoadedModels": 0},
        {"kvCacheType": "q5"},
        {"modelsDir": "a\0b"},
        {"drainSeconds": -1},
        {"nope": 1},
    ],
)
def test_what_ollama_could_not_take_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OllamaOptions.model_validate(values)


@pytest.mark.parametrize(
    "name",
    [
        "smollm2",
        "smollm2:135m",
        "team/model:tag",
        "hf.co/org/Model-GGUF:Q4_K_M",
        "127.0.0.1:5000/a/b",
    ],
)
def test_names_as_ollama_has_them_are_taken(name: str) -> None:
    assert OllamaOptions.model_validate({"model": name}).model == name


@pytest.mark.parametrize(
    ("given", "kept", "keeps"),
    [("5m", "5m", True), ("1h30m", "1h30m", True), (300, "300", True), ("-1", "-1", True),
     (-1, "-1", True), (0, "0", False), ("0s", "0s", False), ("0.5s", "0.5s", True)],
)  # fmt: skip
def test_times_as_ollama_has_them_are_taken(given: Any, kept: str, keeps: bool) -> None:
    options = OllamaOptions.model_validate({"keepAlive": given})
    assert options.keepAlive == kept
    assert options.keeps_models is keeps


def test_every_option_says_what_it_is() -> None:
    for name, field in OllamaOptions.model_fields.items():
        facts = field.json_schema_extra
        assert field.title, name
        assert field.description, name
        assert isinstance(facts, dict), name
        assert {"group", "restart"} <= facts.keys(), name
    assert OllamaOptions.fields_with("restart") == {
        "keepAlive", "modelsDir", "host", "port", "contextLength", "flashAttention", "kvCacheType",
        "maxLoadedModels", "numParallel", "gpus",
    }  # fmt: skip
    assert (
        OllamaOptions.model_json_schema()["properties"].keys() == OllamaOptions.model_fields.keys()
    )
