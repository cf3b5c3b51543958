"""The models folder, read without a server, and what preflight makes of it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backends.engines.ollama import OllamaEngine, OllamaOptions, installation, store
from backends.engines.ollama.names import Name, is_same
from tests.fakes.fake_ollama import add_model, make_binary

ENGINE = OllamaEngine()
MODEL = "smollm2:135m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_model(tmp_path / "models", MODEL, size=1000)
    return tmp_path / "models"


def main_blob(folder: Path) -> Path:
    return max((folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("library/llama3", "llama3:latest"),
        ("team/model", "team/model:latest"),
        ("hf.co/org/model:Q4", "hf.co/org/model:Q4"),
        ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
    ],
)
def test_names_are_shown_as_ollama_shows_them(text: str, short: str) -> None:
    assert Name.parse(text).short == short
    assert Name.parse(short).short == short


def test_a_missing_latest_and_the_case_make_no_other_model() -> None:
    assert is_same("Llama3", "llama3:latest")
    assert not is_same("llama3:8b", "llama3")
    assert not is_same("", "llama3")


def test_models_are_listed_with_the_size_of_all_their_parts(folder: Path) -> None:
    add_model(folder, "hf.co/org/model:Q4_K_M", size=2000)
    add_model(folder, "team/a", size=3000)
    found = store.inventory(folder)
    assert [model.id for model in found] == ["hf.co/org/model:Q4_K_M", MODEL, "team/a:latest"]
    manifest = json.loads(Path(found[1].path).read_text())
    parts = [*manifest["layers"], manifest["config"]]
    assert found[1].size_bytes == sum(part["size"] for part in parts) > 1000
    assert not any(model.problem for model in found)


def test_a_model_is_found_by_any_of_its_names(folder: Path) -> None:
    add_model(folder, "llama3")
    for name in ("llama3", "llama3:latest", "LLAMA3", "library/llama3"):
        found = store.find(folder, name)
        assert found, name
        assert found.id == "llama3:latest"
    assert store.find(folder, "llama3:8b") is None


def test_a_half_downloaded_model_is_not_a_model(folder: Path) -> None:
    main_blob(folder).rename(f"{main_blob(folder)}-partial")
    assert "missing" in store.inventory(folder)[0].problem
    assert "mh ollama pull smollm2:135m" in store.inventory(folder)[0].problem


def test_a_truncated_model_says_so(folder: Path) -> None:
    os.truncate(main_blob(folder), 10)
    assert "incomplete" in store.inventory(folder)[0].problem


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"layers": 1, "config": {}}', "\0", '{"layers": [{}], "config": {}}'])  # fmt: skip
def test_an_unreadable_manifest_is_a_problem_and_no_crash(folder: Path, content: str) -> None:
    Path(store.inventory(folder)[0].path).write_text(content)
    assert "manifest" in store.inventory(folder)[0].problem


def test_files_that_are_no_manifests_are_left_out(folder: Path) -> None:
    for name in ("a/b/.hidden/x", "a/b/c/.DS_Store", "a/b/c/d/e", "a/b"):
        path = folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("{}")
    assert [model.id for model in store.inventory(folder)] == [MODEL]
    assert store.inventory(folder / "nowhere") == []


# Preflight.


@pytest.fixture
def preflight(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MH_OLLAMA_BIN", str(make_binary(tmp_path / "bin" / "ollama")))

    def check(**options: Any) -> list[Any]:
        return ENGINE.preflight(
            OllamaOptions(**{"model": MODEL, "modelsDir": str(folder), **options})
        )

    return check


def test_a_model_that_is_here_is_no_problem(preflight: Any, folder: Path) -> None:
    assert preflight() == []
    options = OllamaOptions(modelsDir=str(folder))
    assert [model.id for model in ENGINE.models(options)] == [MODEL]


def test_a_model_that_is_not_here_is_named_with_those_that_are(preflight: Any) -> None:
    (problem,) = preflight(model="qwen3:14b")
    assert (problem.option, problem.code) == ("model", "model_not_found")
    assert "mh ollama pull qwen3:14b" in problem.message
    assert "Models here: smollm2:135m." in problem.message


def test_an_empty_store_says_so(preflight: Any, tmp_path: Path) -> None:
    (problem,) = preflight(modelsDir=str(tmp_path / "new"))
    assert "There is no model in" in problem.message


def test_a_server_that_loads_nothing_at_its_start_needs_no_model(preflight: Any) -> None:
    assert preflight(model="qwen3:14b", loadOnStart=False) == []


def test_a_damaged_model_is_found_before_the_start(preflight: Any, folder: Path) -> None:
    os.truncate(main_blob(folder), 10)
    (problem,) = preflight()
    assert "damaged" in problem.message


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "gpu-box"])
def test_only_this_machine_may_reach_an_engine_without_a_key(preflight: Any, host: str) -> None:
    (problem,) = preflight(host=host)
    assert problem.option == "host"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_loopback_is_fine(preflight: Any, host: str) -> None:
    assert preflight(host=host) == []


def test_a_quantized_cache_needs_flash_attention(preflight: Any) -> None:
    (problem,) = preflight(kvCacheType="q8_0", flashAttention=False)
    assert problem.option == "kvCacheType"
    assert preflight(kvCacheType="q8_0") == []
    assert preflight(kvCacheType="f16", flashAttention=False) == []


def test_a_models_folder_that_cannot_be_is_told(preflight: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in ("relative/models", str(tmp_path / "file"), str(tmp_path / "file" / "models")):
        (problem,) = preflight(modelsDir=wrong)
        assert problem.option == "modelsDir", wrong


def test_every_problem_is_told_at_once(preflight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MH_OLLAMA_BIN")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(installation, "USUAL_PLACES", ())
    found = preflight(host="0.0.0.0", model="nope")
    assert [problem.code for problem in found] == [
        "engine_not_installed", "preflight_failed", "model_not_found",
    ]  # fmt: skip
