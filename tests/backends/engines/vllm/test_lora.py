"""LoRA adapters: how they reach the command, and what is wrong with one that cannot be served."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.engines.base import Problem
from backends.engines.vllm import VllmEngine, VllmOptions
from backends.engines.vllm.command import launch
from backends.engines.vllm.installation import Installation
from tests.backends.engines.conftest import MakeModel

CUDA = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cuda")
MakeAdapter = Callable[..., str]


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """Make an adapter's folder; return its path."""

    def make(name: str = "sql", rank: Any = 8, weights: str = "adapter_model.safetensors") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
        if weights:
            (folder / weights).write_bytes(b"")
        return str(folder)

    return make


def modules(**paths: str) -> list[dict[str, str]]:
    return [{"name": name, "path": path} for name, path in paths.items()]


def flags(**options: Any) -> list[str]:
    return list(launch(VllmOptions(**options), CUDA).argv[3:])


def test_all_modules_follow_one_flag_since_vllm_keeps_only_the_last(adapter: MakeAdapter) -> None:
    one, two = adapter("one"), adapter("two")
    said = flags(loraModules=modules(one=one, two=two))
    assert "--enable-lora" in said
    at = said.index("--lora-modules")
    assert [json.loads(module) for module in said[at + 1 :]] == modules(one=one, two=two)


def test_no_name_can_pass_for_a_flag_or_for_another_path(adapter: MakeAdapter) -> None:
    path = adapter()
    for name in ("--trust-remote-code", "a=/etc", 'x", "path": "/etc'):
        said = flags(loraModules=[{"name": name, "path": path}])
        assert json.loads(said[-1]) == {"name": name, "path": path}
        assert said[-1].startswith("{")
        assert said[-2] == "--lora-modules"


@pytest.mark.parametrize(
    ("ranks", "flag"),
    [((8,), None), ((16, 4), None), ((17,), "32"), ((8, 64), "64"), ((200,), "256")],
)
def test_the_largest_rank_is_what_the_adapters_need(
    adapter: MakeAdapter, ranks: tuple[int, ...], flag: str | None
) -> None:
    paths = {f"a{rank}": adapter(f"a{rank}", rank) for rank in ranks}
    said = [word for word in flags(loraModules=modules(**paths)) if "max-lora-rank" in word]
    assert said == ([f"--max-lora-rank={flag}"] if flag else [])


def test_limits_are_said_with_lora_and_not_without() -> None:
    limits: dict[str, Any] = {"maxLoraRank": 64, "maxLoras": 2, "maxCpuLoras": 8}
    wanted = {"--max-lora-rank=64", "--max-loras=2", "--max-cpu-loras=8"}
    assert wanted <= set(flags(enableLora=True, **limits))
    assert not any("lora" in flag for flag in flags(**limits))


@pytest.fixture
def problems(
    tmp_path: Path,
    cache: Path,
    make_model: MakeModel,
    make_python: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[Problem]]:
    monkeypatch.setenv("MH_VLLM_PYTHON", str(make_python(tmp_path / "engine")))
    make_model(cache / "models" / "m")
    return lambda **options: VllmEngine().preflight(VllmOptions(model="m", **options))


def test_good_adapters_may_start(problems: Any, adapter: MakeAdapter) -> None:
    assert problems(loraModules=modules(one=adapter("one"), two=adapter("two", 64))) == []


def test_an_adapter_is_found_in_the_hugging_face_cache(
    problems: Any, adapter: MakeAdapter, tmp_path: Path
) -> None:
    repository = tmp_path / "hf" / "hub" / "models--team--sql"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    (repository / "snapshots").mkdir()
    Path(adapter()).rename(repository / "snapshots" / "c0ffee")
    assert problems(loraModules=modules(sql="team/sql")) == []
    said = flags(loraModules=modules(sql="team/sql"))
    assert json.loads(said[-1])["path"] == str(repository / "snapshots" / "c0ffee")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such", "that does not exist."),
        ("team/unknown", "is not on this machine."),
        ("relative/../path", "is not on this machine."),
        ("EMPTY", "no readable adapter_config.json"),
        ("NO_WEIGHTS", "no weights"),
        ("HUGE", "512 at most"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_named(
    problems: Any, adapter: MakeAdapter, tmp_path: Path, path: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    path = {
        "EMPTY": str(tmp_path / "empty"),
        "NO_WEIGHTS": adapter("w", weights=""),
        "HUGE": adapter("h", 1024),
    }.get(path, path)
    (problem,) = problems(loraModules=modules(sql=path))
    assert problem.option == "loraModules"
    assert words in problem.message
    assert "“sql”" in problem.message


def test_names_must_differ_from_each_other_and_from_the_model(
    problems: Any, adapter: MakeAdapter
) -> None:
    path = adapter()
    twice, taken = problems(loraModules=[*modules(a=path), *modules(a=path), *modules(m=path)])
    assert "Two LoRA modules are called “a”" in twice.message
    assert "as the model itself is" in taken.message


def test_limits_are_compared_with_the_adapters_and_each_other(
    problems: Any, adapter: MakeAdapter
) -> None:
    (small,) = problems(maxLoraRank=8, loraModules=modules(sql=adapter(rank=64)))
    assert (small.option, "has rank 64" in small.message) == ("maxLoraRank", True)
    (few,) = problems(enableLora=True, maxLoras=4, maxCpuLoras=2)
    assert few.option == "maxCpuLoras"


@pytest.mark.parametrize(
    ("stored", "names"),
    [
        ({"loraModules": [{"name": "a", "path": "/x"}, {"name": "b", "path": "/y"}]}, ("a", "b")),
        ({}, ()),
        ({"loraModules": None}, ()),
        ({"loraModules": ["a=/x", {"path": "/y"}, {"name": 5}]}, ()),
    ],
)
def test_their_names_are_told_to_the_router(stored: dict[str, Any], names: tuple[str, ...]) -> None:
    assert VllmEngine().also_serves(stored) == names
