from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia
from backends.engines.ollama import OllamaEngine, OllamaOptions
from backends.engines.ollama.command import environment, launch
from backends.errors import EngineNotInstalled

BINARY = Path("/opt/ollama")


def told(**options: Any) -> dict[str, str]:
    return environment(OllamaOptions(**options))


def test_unsaid_options_stay_ollamas_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert told() == {
        "OLLAMA_HOST": "127.0.0.1:11434",
        "OLLAMA_KEEP_ALIVE": "5m",
        "OLLAMA_MODELS": str(Path.home() / ".ollama" / "models"),
        "OLLAMA_NOPRUNE": "1",
    }


@pytest.mark.parametrize(
    ("option", "value", "name", "expected"),
    [
        ("port", 11500, "HOST", "127.0.0.1:11500"),
        ("host", "::1", "HOST", "[::1]:11434"),
        ("keepAlive", "-1", "KEEP_ALIVE", "-1"),
        ("contextLength", 16384, "CONTEXT_LENGTH", "16384"),
        ("numParallel", 4, "NUM_PARALLEL", "4"),
        ("maxLoadedModels", 2, "MAX_LOADED_MODELS", "2"),
        ("flashAttention", True, "FLASH_ATTENTION", "1"),
        ("flashAttention", False, "FLASH_ATTENTION", "0"),
        ("kvCacheType", "q8_0", "KV_CACHE_TYPE", "q8_0"),
        ("modelsDir", "/data/ollama", "MODELS", "/data/ollama"),
    ],
)
def test_an_option_is_told(option: str, value: Any, name: str, expected: str) -> None:
    assert told(**{option: value})[f"OLLAMA_{name}"] == expected


def test_the_models_folder_of_the_sites_environment_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/srv/models")
    assert told()["OLLAMA_MODELS"] == "/srv/models"
    assert told(modelsDir="/data/ollama")["OLLAMA_MODELS"] == "/data/ollama"


def test_the_command_is_serve_and_nothing_else() -> None:
    made = launch(OllamaOptions(model="smollm2:135m", stopTimeoutSeconds=7), BINARY)
    assert made.argv == ("/opt/ollama", "serve")
    assert made.endpoint == "http://127.0.0.1:11434"
    assert (made.served_model, made.start_timeout, made.stop_timeout) == (
        "smollm2:135m",
        300.0,
        7.0,
    )
    assert made.warm


@pytest.mark.parametrize("options", [{"loadOnStart": False}, {"keepAlive": "0"}])
def test_a_model_that_is_not_to_be_in_memory_is_not_loaded_at_the_start(
    options: dict[str, Any],
) -> None:
    assert not launch(OllamaOptions(**options), BINARY).warm


def test_whether_it_is_loaded_at_the_start_is_no_reason_to_restart() -> None:
    one, other = OllamaOptions(loadOnStart=True), OllamaOptions(loadOnStart=False)
    assert launch(one, BINARY) == launch(other, BINARY)


def test_without_a_program_there_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MH_OLLAMA_BIN", "/no/ollama")
    with pytest.raises(EngineNotInstalled, match="MH_OLLAMA_BIN names /no/ollama"):
        OllamaEngine().launch(OllamaOptions())


def test_chosen_gpus_are_the_only_ones_it_sees_else_it_may_use_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    chosen = launch(OllamaOptions(gpus=(1,)), BINARY)
    assert (chosen.env["CUDA_VISIBLE_DEVICES"], chosen.gpus) == ("1", (1,))
    default = launch(OllamaOptions(), BINARY)
    assert default.gpus == (0, 1)
    assert "CUDA_VISIBLE_DEVICES" not in default.env
    assert default == launch(OllamaOptions(), BINARY)
