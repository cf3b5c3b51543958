from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia
from backends.engines.base import Problem
from backends.engines.vllm import VllmEngine, VllmOptions
from tests.backends.engines.conftest import MakeModel


@pytest.fixture
def installed(
    tmp_path: Path, make_python: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_VLLM_PYTHON", str(make_python(tmp_path / "engine")))


@pytest.fixture
def cuda(tmp_path: Path, make_python: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    python = make_python(tmp_path / "engine", "vllm-0.32.0.dist-info")
    monkeypatch.setenv("MH_VLLM_PYTHON", str(python))


def problems(**options: Any) -> list[Problem]:
    return VllmEngine().preflight(VllmOptions(**options))


def the_problem(**options: Any) -> Problem:
    (problem,) = problems(**options)
    # A sentence, or a command to type at its end.
    assert problem.message.endswith((".", "?")) or ": mh " in problem.message
    return problem


@pytest.mark.usefixtures("installed")
def test_a_good_model_may_start(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    assert problems(model="m", maxModelLen=2048, tensorParallelSize=2) == []


def test_vllm_not_installed_is_told_with_the_command_that_helps(
    cache: Path, make_model: MakeModel
) -> None:
    make_model(cache / "models" / "m")
    problem = the_problem(model="m")
    assert problem.code == "engine_not_installed"
    assert "mh vllm install" in problem.message


@pytest.mark.usefixtures("installed")
def test_an_unknown_model_is_told_with_the_known_ones(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "mine")
    problem = the_problem(model="a/b")
    assert (problem.option, problem.code) == ("model", "model_not_found")
    assert problem.message == (
        "The model “a/b” is not on this machine. Models here: mine. Download it: mh vllm pull a/b"
    )


@pytest.mark.usefixtures("installed")
def test_a_missing_path_an_empty_folder_and_damaged_weights(
    tmp_path: Path, make_model: MakeModel
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    damaged = make_model(tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert the_problem(model="/no/such").message == "/no/such does not exist."
    assert the_problem(model=str(empty)).message == f"{empty} is empty."
    assert "is damaged" in the_problem(model=str(damaged)).message


@pytest.mark.usefixtures("installed")
def test_what_the_model_cannot_do_is_named_by_option(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    assert the_problem(model="m", maxModelLen=4096).option == "maxModelLen"
    assert the_problem(model="m", tensorParallelSize=3).option == "tensorParallelSize"
    assert the_problem(model="m", quantization="awq").option == "quantization"
    assert problems(model="m", quantization="fp8") == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("packed", "method", "right"),
    [
        ("awq", "awq_marlin", True),
        ("gptq", "gptq_marlin", True),
        ("gptq", "moe_wna16", True),
        ("compressed-tensors", "compressed-tensors", True),
        ("gptq", "awq", False),
    ],
)
def test_quantization_is_compared_with_the_models_own(
    cache: Path, make_model: MakeModel, packed: str, method: str, right: bool
) -> None:
    make_model(cache / "models" / "m", quantization_config={"quant_method": packed})
    assert (problems(model="m", quantization=method) == []) is right


@pytest.mark.usefixtures("installed")
def test_chat_options_are_checked(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    assert the_problem(model="m", autoToolChoice=True).option == "toolCallParser"
    assert problems(model="m", autoToolChoice=True, toolCallParser="hermes") == []
    assert the_problem(model="m", chatTemplate="/no.jinja").option == "chatTemplate"


@pytest.mark.usefixtures("cuda")
def test_more_gpus_than_there_are(
    cache: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(cache / "models" / "m")
    assert "no NVIDIA GPU" in the_problem(model="m").message
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 1)
    assert problems(model="m") == []
    assert the_problem(model="m", tensorParallelSize=2).option == "tensorParallelSize"


@pytest.mark.usefixtures("installed")
def test_an_open_address_needs_a_key(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    assert the_problem(model="m", host="0.0.0.0").option == "host"
    assert problems(model="m", host="0.0.0.0", apiKey="long-enough-key") == []


@pytest.mark.usefixtures("installed")
def test_several_problems_are_told_at_once(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    found = problems(model="m", host="0.0.0.0", maxModelLen=4096, tensorParallelSize=3)
    assert {problem.option for problem in found} == {"host", "maxModelLen", "tensorParallelSize"}


@pytest.mark.usefixtures("cuda")
def test_gpus_that_are_not_there_or_too_few_are_a_problem(
    cache: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 2)
    make_model(cache / "models" / "m")
    assert problems(model="m", gpus=(0, 1), tensorParallelSize=2) == []
    assert the_problem(model="m", gpus=(2,)).option == "gpus"
    few = the_problem(model="m", gpus=(1,), tensorParallelSize=2)
    assert "split over 2" in few.message


# GPUs of one machine, of several, and none.


@pytest.fixture
def gpus(cuda: None, cache: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA build, four GPUs, and the model ``m``."""
    make_model(cache / "models" / "m")
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 4)


@pytest.mark.usefixtures("gpus")
def test_stages_and_their_gpus_must_all_be_there() -> None:
    assert problems(model="m", tensorParallelSize=2, pipelineParallelSize=2) == []
    problem = the_problem(model="m", tensorParallelSize=4, pipelineParallelSize=2)
    assert problem.option == "pipelineParallelSize"
    assert "is 8, and this machine has 4" in problem.message
    assert the_problem(model="m", pipelineParallelSize=3).message.endswith("only 2 layers.")


@pytest.mark.usefixtures("gpus")
def test_a_ray_cluster_may_have_more_gpus_than_this_machine() -> None:
    ray = {"distributedExecutorBackend": "ray", "rayAddress": "10.0.0.5:6379"}
    assert problems(model="m", tensorParallelSize=4, pipelineParallelSize=2, **ray) == []
    without = the_problem(model="m", rayAddress="10.0.0.5:6379")
    assert without.option == "distributedExecutorBackend"


@pytest.mark.usefixtures("gpus")
def test_one_process_cannot_use_two_gpus() -> None:
    problem = the_problem(model="m", tensorParallelSize=2, distributedExecutorBackend="uni")
    assert problem.option == "distributedExecutorBackend"


@pytest.mark.usefixtures("gpus")
def test_memory_options_are_for_gpus() -> None:
    asked = {
        "sleepMode": True,
        "kvCacheMemoryGiB": 4,
        "kvOffloadGiB": 8,
        "cpuOffloadGiB": 2,
        "distributedExecutorBackend": "ray",
    }
    assert problems(model="m", **asked) == []


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sleepMode", True),
        ("kvCacheMemoryGiB", 4),
        ("kvOffloadGiB", 8),
        ("cpuOffloadGiB", 2),
        ("distributedExecutorBackend", "ray"),
    ],
)
def test_what_the_cpu_build_cannot_do_is_refused_with_what_to_do_instead(
    cache: Path, make_model: MakeModel, name: str, value: Any
) -> None:
    make_model(cache / "models" / "m")
    problem = the_problem(model="m", **{name: value})
    assert problem.option == name
    assert "is the CPU build" in problem.message


@pytest.mark.usefixtures("gpus")
def test_sleep_mode_is_for_this_machine_alone_key_or_not() -> None:
    problem = the_problem(model="m", sleepMode=True, host="0.0.0.0", apiKey="long-enough-key")
    assert (problem.option, "put the engine to sleep" in problem.message) == ("host", True)


@pytest.mark.usefixtures("installed")
def test_a_step_must_hold_a_token_of_every_request(cache: Path, make_model: MakeModel) -> None:
    make_model(cache / "models" / "m")
    assert problems(model="m", maxNumSeqs=8, maxNumBatchedTokens=8) == []
    assert the_problem(model="m", maxNumSeqs=9, maxNumBatchedTokens=8).option == (
        "maxNumBatchedTokens"
    )


@pytest.mark.usefixtures("installed")
def test_a_packing_that_the_installed_release_cannot_read_is_told(
    cache: Path, make_model: MakeModel
) -> None:
    make_model(cache / "models" / "m", quantization_config={"quant_method": "bitsandbytes"})
    problem = the_problem(model="m")
    assert (problem.option, "packed as bitsandbytes" in problem.message) == ("model", True)
