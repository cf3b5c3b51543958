from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia
from backends.engines.vllm import VllmEngine, VllmOptions
from backends.engines.vllm.command import cpu_kv_cache_gib, launch
from backends.engines.vllm.installation import Installation
from backends.errors import EngineNotInstalled
from tests.backends.engines.conftest import MakeModel

CPU = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cpu")
CUDA = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cuda")


def flags(installation: Installation, **options: Any) -> list[str]:
    return list(launch(VllmOptions(**options), installation).argv[3:])


def test_the_cpu_build_is_always_eager_and_always_has_a_cache_size() -> None:
    made = launch(VllmOptions(), CPU)
    assert made.argv[:3] == ("/e/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert "--enforce-eager" in made.argv
    assert made.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not any("gpu-memory" in flag for flag in made.argv)


def test_the_cuda_build_takes_its_share_of_memory_and_compiles() -> None:
    made = launch(VllmOptions(), CUDA)
    assert "--gpu-memory-utilization=0.9" in made.argv
    assert "--enforce-eager" not in made.argv
    assert "VLLM_CPU_KVCACHE_SPACE" not in made.env


def test_every_engine_option_reaches_the_command() -> None:
    said = flags(
        CUDA,
        servedModelName="me",
        maxModelLen=4096,
        tensorParallelSize=2,
        dtype="bfloat16",
        quantization="fp8",
        kvCacheDtype="fp8",
        enforceEager=True,
        seed=0,
        reasoningParser="qwen3",
        toolCallParser="hermes",
        autoToolChoice=True,
        chatTemplate="/t.jinja",
        trustRemoteCode=True,
        host="::1",
        port=9,
    )
    assert {
        "--served-model-name=me",
        "--max-model-len=4096",
        "--tensor-parallel-size=2",
        "--dtype=bfloat16",
        "--quantization=fp8",
        "--kv-cache-dtype=fp8",
        "--enforce-eager",
        "--seed=0",
        "--reasoning-parser=qwen3",
        "--tool-call-parser=hermes",
        "--enable-auto-tool-choice",
        "--chat-template=/t.jinja",
        "--trust-remote-code",
        "--host=::1",
        "--port=9",
    } <= set(said)


def test_no_value_can_pass_for_a_flag() -> None:
    said = flags(CPU, servedModelName="--trust-remote-code", model="--no-such-flag")
    assert "--served-model-name=--trust-remote-code" in said
    assert all(flag.count("=") or flag == "--enforce-eager" for flag in said)


def test_the_key_is_in_no_argument_no_plain_variable_and_no_repr() -> None:
    made = launch(VllmOptions(apiKey="hush-hush-hush"), CPU)
    assert made.secret_env == {"VLLM_API_KEY": "hush-hush-hush"}
    assert "hush" not in repr(made)
    assert "hush" not in " ".join([*made.argv, *made.env, *made.env.values()])


def test_a_local_model_is_served_by_its_path_offline_under_the_name_the_user_gave(
    cache: Path, make_model: MakeModel
) -> None:
    folder = make_model(cache / "models" / "mine")
    made = launch(VllmOptions(model="mine"), CPU)
    assert f"--model={folder}" in made.argv
    assert "--served-model-name=mine" in made.argv
    assert made.served_model == "mine"
    assert made.env["HF_HUB_OFFLINE"] == "1"


def test_a_model_that_is_not_here_is_left_to_vllm_to_find() -> None:
    made = launch(VllmOptions(model="a/b", revision="v2", downloadDir="/d"), CPU)
    assert {"--model=a/b", "--revision=v2", "--download-dir=/d"} <= set(made.argv)
    assert "HF_HUB_OFFLINE" not in made.env


def test_nothing_is_reported_to_anybody() -> None:
    assert {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}.items() <= launch(
        VllmOptions(), CPU
    ).env.items()


@pytest.mark.parametrize(("limit", "length"), [(2048, 2048), (131072, 8192)])
def test_the_length_is_the_models_own_within_the_default(
    cache: Path, make_model: MakeModel, limit: int, length: int
) -> None:
    make_model(cache / "models" / "m", max_position_embeddings=limit)
    assert f"--max-model-len={length}" in flags(CPU, model="m")
    assert "--max-model-len=64" in flags(CPU, model="m", maxModelLen=64)


def test_the_cache_on_cpu_holds_one_full_conversation(cache: Path, make_model: MakeModel) -> None:
    shape = {"num_hidden_layers": 48, "num_key_value_heads": 8, "head_dim": 128}
    folder = make_model(cache / "models" / "big", max_position_embeddings=32768, **shape)
    assert cpu_kv_cache_gib(VllmOptions(model="big"), folder) == 2
    assert cpu_kv_cache_gib(VllmOptions(model="big", cpuKvCacheGiB=7), folder) == 7
    assert cpu_kv_cache_gib(VllmOptions(), None) == 1


def test_the_same_options_give_an_equal_launch_and_a_changed_one_a_different(
    cache: Path, make_model: MakeModel
) -> None:
    make_model(cache / "models" / "m")
    assert launch(VllmOptions(model="m"), CPU) == launch(VllmOptions(model="m"), CPU)
    assert launch(VllmOptions(model="m"), CPU) != launch(VllmOptions(model="m", seed=1), CPU)


def test_limits_and_address_are_the_callers_to_keep() -> None:
    made = launch(
        VllmOptions(startTimeoutSeconds=900, stopTimeoutSeconds=3, host="0.0.0.0", port=8001), CPU
    )
    assert (made.start_timeout, made.stop_timeout) == (900.0, 3.0)
    assert made.endpoint == "http://127.0.0.1:8001"


def test_without_an_installation_the_engine_says_so() -> None:
    with pytest.raises(EngineNotInstalled, match="mh vllm install"):
        VllmEngine().launch(VllmOptions())


def test_chosen_gpus_are_the_only_ones_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = launch(VllmOptions(gpus=(3, 1), tensorParallelSize=2), CUDA)
    assert made.env["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert made.gpus == (1, 3)
    default = launch(VllmOptions(tensorParallelSize=2), CUDA)
    assert "CUDA_VISIBLE_DEVICES" not in default.env
    assert default.gpus == (0, 1)


def test_the_cpu_build_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 4)
    made = launch(VllmOptions(gpus=(0,)), CPU)
    assert made.gpus == ()
    assert "CUDA_VISIBLE_DEVICES" not in made.env
