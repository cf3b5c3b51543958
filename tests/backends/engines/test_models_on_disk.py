import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from backends.engines.base import ModelInfo
from backends.engines.models_on_disk import (
    Config,
    Places,
    hub_folder,
    inventory,
    names_like,
    problem_of,
    resolve,
    safetensors_problem,
)
from tests.backends.engines.conftest import CONFIG, MakeModel, safetensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def add_to_hub(hub: Path, name: str, make_model: MakeModel, *, ref: str = "main") -> Path:
    """Lay a model out as ``huggingface_hub`` does: snapshots of links to blobs, named by refs."""
    repository = hub / f"models--{name.replace('/', '--')}"
    made = make_model(repository / "made")
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(made.iterdir()):
        blob = repository / "blobs" / str(number)
        file.rename(blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    made.rmdir()
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(COMMIT)
    return snapshot


def test_a_model_is_found_by_path_by_folder_name_and_in_the_hugging_face_cache(
    tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_model(tmp_path / "models" / "mine")
    published = make_model(tmp_path / "models" / "lab" / "llm")
    snapshot = add_to_hub(tmp_path / "hub", "Qwen/Qwen2.5-14B-Instruct", make_model)
    places = Places(folders=(tmp_path / "models",), hubs=(tmp_path / "hub",))
    assert resolve(str(mine), places) == mine
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/models/mine", places) == mine
    assert resolve("~/models/gone", places) is None
    assert resolve("mine", places) == mine
    assert resolve("lab/llm", places) == published
    assert resolve("Qwen/Qwen2.5-14B-Instruct", places) == snapshot
    assert problem_of(snapshot) == ""
    assert [model.id for model in inventory(places)] == [
        "lab/llm",
        "mine",
        "Qwen/Qwen2.5-14B-Instruct",
    ]
    assert all(model.size_bytes > 0 for model in inventory(places))


def test_a_revision_is_a_branch_or_a_commit(tmp_path: Path, make_model: MakeModel) -> None:
    snapshot = add_to_hub(tmp_path, "a/b", make_model, ref="v2")
    places = Places(hubs=(tmp_path,))
    assert resolve("a/b", places) is None
    assert resolve("a/b", places, "v2") == snapshot
    assert resolve("a/b", places, COMMIT) == snapshot
    assert resolve("a/b", places, "v3") is None


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../secret", "a/../../secret", "a/b/c", "a//b", "~/x", "/no/such/place", "-x"],
)
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path, make_model: MakeModel) -> None:
    make_model(tmp_path / "secret")
    (tmp_path / "models").mkdir()
    places = Places(folders=(tmp_path / "models",), hubs=(tmp_path / "models",))
    assert resolve(name, places) is None
    assert resolve("a/b", places, "../../secret") is None


def test_an_incomplete_download_is_listed_with_what_is_missing(
    tmp_path: Path, make_model: MakeModel
) -> None:
    snapshot = add_to_hub(tmp_path, "a/b", make_model)
    names = {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (snapshot / names["x"]).write_bytes(safetensors())
    (model,) = inventory(Places(hubs=(tmp_path,)))
    assert "model-00002-of-00002.safetensors is missing (1 of 2 files)" in model.problem
    (snapshot / names["y"]).write_bytes(safetensors())
    assert problem_of(snapshot) == ""


def test_each_kind_of_bad_folder_is_told_apart(tmp_path: Path, make_model: MakeModel) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    no_weights = make_model(tmp_path / "no-weights")
    (no_weights / "model.safetensors").unlink()
    no_config = make_model(tmp_path / "no-config")
    (no_config / "config.json").unlink()
    bad_config = make_model(tmp_path / "bad-config")
    (bad_config / "config.json").write_text("{")
    bad_index = make_model(tmp_path / "bad-index")
    (bad_index / "model.safetensors.index.json").write_text("[]")
    assert problem_of(tmp_path / "gone").endswith("does not exist.")
    assert problem_of(empty).endswith("is empty.")
    assert "has no weights" in problem_of(no_weights)
    assert "has no config.json" in problem_of(no_config)
    assert "is not valid JSON" in problem_of(bad_config)
    assert "is not a valid index" in problem_of(bad_index)
    assert "is a file" in problem_of(no_config / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data[:-1], "where its header says"),
        (lambda data: data + b"x", "where its header says"),
        (lambda data: data[:30], "longer than the file"),
        (lambda data: data[:5], "too short"),
        (lambda data: b"", "too short"),
        (lambda data: struct.pack("<Q", 2**60) + data[8:], "longer than the file"),
        (lambda data: data[:8] + b"#" + data[9:], "not valid"),
        (lambda data: struct.pack("<Q", 2) + b"[]", "not valid"),
    ],
)
def test_damaged_weights_are_seen_from_their_header(tmp_path: Path, damage, problem: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(damage(safetensors()))
    assert problem in safetensors_problem(file)


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(st.binary(max_size=80), st.integers(0, 90))
def test_no_bytes_break_the_check(tmp_path: Path, data: bytes, length: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + data)
    assert isinstance(safetensors_problem(file), str)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        (
            {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}},
            16384,
        ),
        (
            {"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "llama3", "factor": 8}},
            4096,
        ),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {"rope_type": "yarn", "factor": 4},
            },
            4096,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"factor": None}}, 4096),
        ({"max_position_embeddings": "many"}, None),
        ({}, None),
    ],
)
def test_the_longest_context_is_worked_out_as_vllm_does(config: dict, length: int | None) -> None:
    assert Config(config).max_length == length


def test_other_facts_of_a_configuration() -> None:
    config = Config(CONFIG)
    assert config.attention_heads == 4
    assert config.quantization is None
    assert config.kv_bytes_per_token == 2 * 2 * 2 * 2 * 16
    assert Config({"quantization_config": {"quant_method": "AWQ"}}).quantization == "awq"
    assert Config({}).kv_bytes_per_token is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_configuration_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert Config.read(tmp_path).max_length is None


def test_the_cache_folder_follows_the_same_variables_as_hugging_face() -> None:
    assert hub_folder({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_folder({}) == Path.home() / ".cache/huggingface/hub"


def test_names_for_a_sentence() -> None:
    models = [ModelInfo(id=str(n), path="", size_bytes=0) for n in range(7)]
    assert names_like(models) == "0, 1, 2, 3, 4 and 2 more"
    assert names_like([ModelInfo(id="x", path="", size_bytes=0, problem="broken")]) == ""
