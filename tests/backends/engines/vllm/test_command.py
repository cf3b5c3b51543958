from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia
from backends.engines.base import Options
from backends.engines.vllm import VllmEngine, VllmOptions, command
from backends.engines.vllm.command import cpu_kv_cache_gib, launch, max_model_len
from backends.engines.vllm.installation import Installation
from backends.errors import EngineNotInstalled
from tests.backends.engines.conftest import MakeModel

CPU = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cpu")
HAS_AMX = command.has_amx
CUDA = Installation(python=Path("/e/bin/python"), version="0.32.0", build="cuda")


@pytest.fixture(autouse=True)
def no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "has_amx", lambda: False)


def test_without_a_gpu_the_model_is_computed_in_32_bits_where_16_would_go_through_amx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "has_amx", lambda: True)
    assert "--dtype=float32" in flags(CPU)
    assert "--dtype=bfloat16" in flags(CPU, dtype="bfloat16")
    assert not any(flag.startswith("--dtype") for flag in flags(CUDA))


def test_amx_is_read_from_the_processors_flags(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx512_bf16 amx_bf16 amx_tile\n")
    assert HAS_AMX(cpuinfo)
    cpuinfo = tmp_path / "older"
    cpuinfo.write_text("flags : fpu avx512_bf16\n")
    assert not HAS_AMX(cpuinfo)
    assert not HAS_AMX(tmp_path / "none")


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


#: Option, value, the flag it becomes. Options that are not said become none.
FLAGS: list[tuple[str, Any, str]] = [
    ("servedModelName", "me", "--served-model-name=me"),
    ("revision", "v2", "--revision=v2"),
    ("downloadDir", "/d", "--download-dir=/d"),
    ("chatTemplate", "/t.jinja", "--chat-template=/t.jinja"),
    ("trustRemoteCode", True, "--trust-remote-code"),
    ("host", "::1", "--host=::1"),
    ("port", 9, "--port=9"),
    ("gpuMemoryUtilization", 0.5, "--gpu-memory-utilization=0.5"),
    ("maxModelLen", 4096, "--max-model-len=4096"),
    ("maxModelLen", "auto", "--max-model-len=auto"),
    ("kvCacheDtype", "fp8", "--kv-cache-dtype=fp8"),
    ("kvCacheMemoryGiB", 1.5, "--kv-cache-memory-bytes=1610612736"),
    ("kvOffloadGiB", 8, "--kv-offloading-size=8.0"),
    ("cpuOffloadGiB", 2.5, "--cpu-offload-gb=2.5"),
    ("enablePrefixCaching", True, "--enable-prefix-caching"),
    ("enablePrefixCaching", False, "--no-enable-prefix-caching"),
    ("tensorParallelSize", 2, "--tensor-parallel-size=2"),
    ("pipelineParallelSize", 3, "--pipeline-parallel-size=3"),
    ("distributedExecutorBackend", "ray", "--distributed-executor-backend=ray"),
    ("distributedExecutorBackend", "mp", "--distributed-executor-backend=mp"),
    ("distributedExecutorBackend", "uni", "--distributed-executor-backend=uni"),
    ("maxNumSeqs", 64, "--max-num-seqs=64"),
    ("maxNumBatchedTokens", 8192, "--max-num-batched-tokens=8192"),
    ("dtype", "bfloat16", "--dtype=bfloat16"),
    ("quantization", "compressed-tensors", "--quantization=compressed-tensors"),
    ("enforceEager", True, "--enforce-eager"),
    ("seed", 0, "--seed=0"),
    ("extraArguments", {"async-scheduling": True}, "--async-scheduling"),
    ("extraArguments", {"async-scheduling": False}, "--no-async-scheduling"),
    ("extraArguments", {"stream-interval": 4}, "--stream-interval=4"),
    ("extraArguments", ["--stream-interval=4"], "--stream-interval=4"),
    ("extraArguments", {"watermark": 0.1}, "--watermark=0.1"),
    ("extraArguments", {"limit-mm-per-prompt": {"image": 2}}, '--limit-mm-per-prompt={"image": 2}'),
    ("enableLora", True, "--enable-lora"),
    ("sleepMode", True, "--enable-sleep-mode"),
    ("reasoningParser", "qwen3", "--reasoning-parser=qwen3"),
    ("toolCallParser", "hermes", "--tool-call-parser=hermes"),
    ("autoToolChoice", True, "--enable-auto-tool-choice"),
]
#: Options that are always said, since the site and the engine must mean the same.
ALWAYS = {"--model", "--served-model-name", "--host", "--port", "--max-model-len"}
#: Options that become no flag: a variable, another flag's companion, or the site's own business.
NO_FLAG = {
    "model", "apiKey", "cpuKvCacheGiB", "rayAddress", "loraModules", "maxLoraRank", "maxLoras",
    "maxCpuLoras", "sleepLevel", "standby", "startTimeoutSeconds", "stopTimeoutSeconds",
}  # fmt: skip


def name_of(flag: str) -> str:
    return flag.partition("=")[0]


@pytest.mark.parametrize(("option", "value", "flag"), FLAGS)
def test_an_option_that_is_given_becomes_its_flag(option: str, value: Any, flag: str) -> None:
    said = flags(CUDA, **{option: value})
    assert flag in said
    assert sum(name_of(other) == name_of(flag) for other in said) == 1
    if name_of(flag) not in ALWAYS | {"--gpu-memory-utilization"}:
        assert name_of(flag) not in {name_of(other) for other in flags(CUDA)}


def test_every_option_is_known_to_these_tests() -> None:
    own = set(VllmOptions.model_fields) - set(Options.model_fields)
    assert own == NO_FLAG | {option for option, _, _ in FLAGS}


def test_what_is_not_said_stays_vllms_own_choice() -> None:
    assert {name_of(flag) for flag in flags(CUDA)} == ALWAYS | {"--gpu-memory-utilization"}
    assert {name_of(flag) for flag in flags(CPU)} == ALWAYS | {"--enforce-eager"}


@pytest.mark.parametrize(
    "option",
    ["servedModelName", "model", "revision", "downloadDir", "chatTemplate", "reasoningParser",
     "toolCallParser"],
)  # fmt: skip
@pytest.mark.parametrize(
    "value", ["--trust-remote-code", "-O3", "--config=/etc/x", "--", "=", "@x"]
)
def test_no_value_can_pass_for_a_flag(option: str, value: str) -> None:
    said = flags(CPU, **{option: value})
    plain = flags(CPU)
    assert value not in said
    assert {name_of(flag) for flag in said} - {name_of(flag) for flag in plain} <= {
        "--" + name for name in (
            "revision", "download-dir", "chat-template", "reasoning-parser", "tool-call-parser"
        )
    }  # fmt: skip


def test_sleep_mode_opens_its_endpoints_and_only_it_does() -> None:
    assert launch(VllmOptions(sleepMode=True), CUDA).env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_SERVER_DEV_MODE" not in launch(VllmOptions(), CUDA).env


def test_the_depth_of_sleep_is_no_reason_to_start_anew() -> None:
    one, two = (launch(VllmOptions(sleepMode=True, sleepLevel=n), CUDA) for n in (1, 2))
    assert one == two


def test_the_ray_cluster_is_named_in_the_environment() -> None:
    said = launch(VllmOptions(rayAddress="10.0.0.5:6379"), CUDA)
    assert said.env["RAY_ADDRESS"] == "10.0.0.5:6379"
    assert "RAY_ADDRESS" not in launch(VllmOptions(), CUDA).env


def test_extra_arguments_in_another_order_are_the_same_launch() -> None:
    one = {"watermark": 0.1, "stream-interval": 4}
    other = dict(reversed(one.items()))
    assert launch(VllmOptions(extraArguments=one), CUDA) == launch(
        VllmOptions(extraArguments=other), CUDA
    )


def test_of_a_model_as_long_as_fits_the_longest_is_its_own(
    cache: Path, make_model: MakeModel
) -> None:
    folder = make_model(cache / "models" / "m", max_position_embeddings=131072)
    assert max_model_len(VllmOptions(model="m", maxModelLen="auto"), folder) == 131072
    assert max_model_len(VllmOptions(model="m"), folder) == 8192


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
