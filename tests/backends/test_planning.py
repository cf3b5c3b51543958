"""Does it fit? The pure planner on made-up machines, and what plugins estimate for known models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.engines import nvidia
from backends.engines.estimates import Cache, Estimate, Levers, unknown
from backends.engines.ollama import OllamaEngine, OllamaOptions
from backends.engines.vllm import VllmEngine, VllmOptions
from backends.planning import Gpu, Machine, PastStart, Plan, Verdict, need, plan
from tests.backends.engines.weights import write_gguf, write_model

GIB = 2**30
LEVERS = Levers(
    context="maxModelLen",
    cache_format=("kvCacheDtype", "fp8"),
    tensor_parallel="tensorParallelSize",
    share="gpuMemoryUtilization",
    offload="cpuOffloadGiB",
    smaller_weights="a 4-bit build",
)
#: Qwen2.5-14B on one GPU with 8192 tokens: 27.5 GiB of weights, 192 KiB per token.
QWEN = Estimate(
    model="Qwen",
    device="gpu",
    weights=29_540_067_328,
    weight_bits=16,
    cache=Cache(per_token=98_304, layers=48, heads=8),
    context=8192,
    context_max=32_768,
    other=2 * GIB,
    other_least=GIB // 4,
    attention_heads=40,
    share=0.9,
    levers=LEVERS,
)
#: Llama 3.1 8B as Ollama has it: 4.6 GiB, what is too much stays on the machine.
LLAMA = Estimate(
    model="llama3.1:8b",
    weights=4_920_000_000,
    weight_bits=None,
    cache=Cache(per_token=65_536, layers=32, heads=8),
    context=8192,
    context_max=131_072,
    other=GIB // 2,
    other_least=GIB // 20,
    spills=True,
    levers=Levers(context="contextLength", cache_format=("kvCacheType", "q8_0")),
)
#: A small model without a GPU, whose cache is set aside: 1 GiB.
SMALL = Estimate(
    model="small",
    device="cpu",
    weights=GIB // 4,
    weight_bits=16,
    cache=Cache(per_token=11_520, layers=30, heads=3),
    context=8192,
    context_max=8192,
    reserved=GIB,
    other=2 * GIB,
    other_least=GIB // 2,
    levers=Levers(context="maxModelLen", cache_gib="cpuKvCacheGiB"),
)


def gpu(index: int = 0, total: float = 80, used: float = 0.5, **held: float | None) -> Gpu:
    return Gpu(
        index=index,
        name="GPU",
        total=round(total * GIB),
        used=round(used * GIB),
        held={name: None if n is None else round(n * GIB) for name, n in held.items()},
    )


def machine(*gpus: Gpu, available: float = 60, swap: float = 0, **held: float) -> Machine:
    return Machine(
        gpus=gpus,
        total=64 * GIB,
        available=round(available * GIB),
        swap_free=round(swap * GIB),
        held={name: round(n * GIB) for name, n in held.items()},
    )


def ask(estimate: Estimate | None, where: Machine, *leaving: str, **more: Any) -> Plan:
    return plan(
        backend="vllm", title="vLLM", estimate=estimate, machine=where, leaving=leaving, **more
    )


def options_of(found: Plan) -> list[dict[str, Any]]:
    return [each.options for each in found.suggestions]


# --- what is needed ---------------------------------------------------------------------------------


def test_need_on_one_gpu_is_weights_cache_and_the_engines_own() -> None:
    found = need(QWEN, on_gpu=True)
    assert found.weights == 29_540_067_328
    assert found.cache == 1.5 * GIB
    assert found.total == 29_540_067_328 + round(1.5 * GIB) + 2 * GIB


def test_tensor_parallel_divides_weights_and_heads() -> None:
    found = need(QWEN, on_gpu=True, tensor_parallel=4)
    assert found.weights == 29_540_067_328 // 4
    assert found.cache == 1.5 * GIB / 4
    assert found.other == 2 * GIB, "every GPU needs the engine's own"
    many = need(QWEN, on_gpu=True, tensor_parallel=16)
    assert many.cache == 1.5 * GIB / 8, "8 heads on 16 GPUs: each is there twice"


def test_latent_attention_is_kept_whole_on_every_gpu() -> None:
    latent = replace(QWEN, cache=Cache(per_token=15_552, layers=27, heads=None))
    assert need(latent, on_gpu=True, tensor_parallel=8).cache == 15_552 * 2 * 8192


def test_a_pipeline_divides_layers_and_leaves_tables_whole() -> None:
    table = 152_064 * 5120 * 2
    staged = replace(QWEN, pipeline_parallel=2, embedding=table)
    found = need(staged, on_gpu=True)
    assert found.weights == (29_540_067_328 - table) // 2 + table
    assert found.cache == 0.75 * GIB


def test_a_smaller_cache_format_takes_its_part() -> None:
    assert need(replace(QWEN, cache_format="fp8"), on_gpu=True).cache == 0.75 * GIB
    assert need(replace(QWEN, cache_format="q8_0"), on_gpu=True).cache == 1.5 * GIB * 34 / 64
    assert need(replace(QWEN, cache_format="q4_0"), on_gpu=True).cache == 1.5 * GIB * 18 / 64


def test_each_process_sets_the_cache_aside_without_a_gpu() -> None:
    two = replace(SMALL, tensor_parallel=2)
    assert need(two, on_gpu=False).cache == 2 * GIB
    assert need(two, on_gpu=False).weights == GIB // 4


# --- an engine that takes a share of each GPU -------------------------------------------------------


def test_it_fits_on_an_empty_gpu() -> None:
    found = ask(QWEN, machine(gpu()))
    assert (found.verdict, found.certain, found.releases) == (Verdict.FITS, False, ())
    assert found.because == (
        "Qwen needs 31.0 GiB of GPU 0 (weights 27.5 GiB, cache 1.5 GiB for 8192 tokens, other 2.0 GiB), "
        "vLLM takes 72.0 GiB of it, and 79.5 GiB is free."
    )
    assert found.gpus[0].takes == 72 * GIB
    assert found.context_fits == 32_768


def test_it_fits_once_the_other_backend_has_left() -> None:
    where = machine(gpu(used=40, ollama=39))
    found = ask(QWEN, where, "vllm", "ollama")
    assert (found.verdict, found.releases) == (Verdict.FITS_AFTER_RELEASE, ("ollama",))
    assert "ollama gives back 39.0 GiB" in found.because


def test_a_restart_counts_its_own_memory_as_free() -> None:
    where = machine(gpu(used=73, vllm=72))
    assert ask(QWEN, where).verdict == Verdict.DOES_NOT_FIT
    assert ask(QWEN, where, "vllm").verdict == Verdict.FITS_AFTER_RELEASE


def test_what_nobody_gives_back_makes_it_not_fit_for_sure() -> None:
    found = ask(QWEN, machine(gpu(used=40, ollama=39)), "vllm")
    assert found.refused
    assert "only 40.0 GiB of 80.0 GiB is free" in found.because
    assert "ollama holds memory there." in found.because
    assert {"gpuMemoryUtilization": 0.5} in options_of(found), "31 GiB are needed, 40 are free"
    assert any("mh backend switch vllm" in each.message for each in found.suggestions)


def test_weights_alone_too_big_are_refused_with_what_would_help() -> None:
    found = ask(QWEN, machine(gpu(total=24), gpu(1, total=24), available=50), "vllm")
    assert found.refused
    assert found.because == (
        "Qwen needs 31.0 GiB of GPU 0 (weights 27.5 GiB, cache 1.5 GiB for 8192 tokens, other 2.0 GiB), "
        "and vLLM may take 21.6 GiB of it (90% of 24.0 GiB)."
    )
    assert options_of(found) == [{"tensorParallelSize": 2}, {"cpuOffloadGiB": 10}, {}]
    assert "16.5 GiB on each of 2 GPUs" in found.suggestions[0].message
    assert found.suggestions[2].message == "serve a 4-bit build: its weights take about 8.4 GiB."
    assert found.context_fits == 0


def test_a_long_conversation_is_shortened_to_what_fits() -> None:
    long = replace(QWEN, context=131_072, context_max=131_072)
    found = ask(long, machine(gpu(total=48)))
    assert found.refused, "24 GiB of cache beside 27.5 of weights"
    fitting = found.context_fits or 0
    assert need(long, on_gpu=True, context=fitting).total <= 0.9 * 48 * GIB
    assert need(long, on_gpu=True, context=fitting + 256).total > 0.9 * 48 * GIB
    assert {"maxModelLen": fitting} in options_of(found)
    assert {"kvCacheDtype": "fp8"} in options_of(found)


def test_a_share_that_is_too_small_is_raised() -> None:
    found = ask(replace(QWEN, share=0.3), machine(gpu()))
    assert found.refused
    assert options_of(found)[0] == {"gpuMemoryUtilization": 0.39}, "31 of 80 GiB"


def test_only_likely_not_to_fit_is_said_and_not_refused() -> None:
    tight = replace(QWEN, share=30 / 80)
    found = ask(tight, machine(gpu()))
    assert (found.verdict, found.certain) == (Verdict.DOES_NOT_FIT, False)
    assert not found.refused


def test_what_started_before_with_the_same_options_is_believed() -> None:
    tight = replace(QWEN, share=30 / 80)
    found = ask(tight, machine(gpu()), past=PastStart(gpu_bytes=29 * GIB))
    assert (found.verdict, found.measured) == (Verdict.FITS, True)


def test_memory_the_driver_does_not_tell_leaves_it_unknown() -> None:
    blind = replace(gpu(), used=None)
    assert ask(QWEN, machine(blind)).verdict == Verdict.UNKNOWN
    held = machine(gpu(used=40, ollama=None))
    assert ask(QWEN, held, "ollama").verdict == Verdict.UNKNOWN
    assert ask(QWEN, machine(gpu(used=1, ollama=None)), "ollama").verdict == Verdict.FITS


def test_named_gpus_are_the_ones_looked_at() -> None:
    where = machine(gpu(used=70), gpu(1))
    assert ask(QWEN, where).verdict == Verdict.DOES_NOT_FIT
    found = ask(replace(QWEN, gpus=(1,)), where)
    assert (found.verdict, found.gpus[0].index) == (Verdict.FITS, 1)
    assert ask(replace(QWEN, tensor_parallel=2, gpus=(1,)), where).verdict == Verdict.UNKNOWN


def test_the_fullest_of_several_gpus_decides() -> None:
    two = replace(QWEN, tensor_parallel=2)
    assert ask(two, machine(gpu(), gpu(1))).verdict == Verdict.FITS
    found = ask(two, machine(gpu(), gpu(1, used=50)))
    assert found.refused
    assert "of GPU 1 at its start" in found.because


def test_a_cache_of_a_size_that_was_said_counts_in_place_of_what_is_left() -> None:
    said = replace(QWEN, reserved=4 * GIB, share=0.3)
    found = ask(said, machine(gpu()))
    assert (found.verdict, found.kv_cache) == (Verdict.FITS, 4 * GIB)
    assert found.gpus[0].takes == found.needed, "more than its share"
    assert (found.context_fits or 0) * 196_608 <= 4 * GIB
    small = ask(replace(said, reserved=GIB), machine(gpu(), gpu(1)))
    assert small.refused, "8192 tokens need 1.5 GiB"
    assert options_of(small) == [
        {"maxModelLen": 5376},
        {"kvCacheDtype": "fp8"},
        {"tensorParallelSize": 2},
    ]
    tiny = ask(replace(said, reserved=GIB // 2), machine(gpu(), gpu(1)))
    assert options_of(tiny) == [{"maxModelLen": 2560}]
    assert ask(replace(said, reserved=50 * GIB), machine(gpu())).verdict == Verdict.DOES_NOT_FIT


def test_a_pipeline_needs_only_its_layers_of_the_cache_that_was_set_aside() -> None:
    staged = replace(SMALL, context=60_000, context_max=60_000, pipeline_parallel=2)
    assert ask(staged, machine(available=20)).verdict == Verdict.FITS
    assert ask(replace(staged, pipeline_parallel=1), machine(available=20)).refused


def test_a_context_that_adapts_is_refused_only_when_its_shortest_does_not_fit() -> None:
    auto = replace(QWEN, context=131_072, context_least=512)
    assert not ask(auto, machine(gpu(total=40))).refused
    assert ask(replace(auto, context_least=None), machine(gpu(total=40))).refused
    assert ask(auto, machine(gpu(total=24))).refused


# --- an engine that keeps the rest on the machine ---------------------------------------------------


def test_all_of_it_on_the_gpu() -> None:
    found = ask(LLAMA, machine(gpu(total=12)))
    assert (found.verdict, found.spilled) == (Verdict.FITS, 0)


def test_what_is_too_much_for_the_gpu_stays_on_the_machine_and_is_said() -> None:
    found = ask(LLAMA, machine(gpu(total=6.2)))
    assert found.verdict == Verdict.FITS
    assert found.spilled > 0
    assert "stays in the machine's memory, and answers come slowly" in found.because
    assert [list(each) for each in options_of(found)] == [["contextLength"], ["kvCacheType"]]


def test_several_gpus_hold_it_together() -> None:
    found = ask(LLAMA, machine(gpu(total=4), gpu(1, total=4)))
    assert (found.verdict, found.spilled) == (Verdict.FITS, 0)


def test_neither_gpu_nor_machine_can_hold_it() -> None:
    huge = replace(LLAMA, weights=400 * GIB)
    found = ask(huge, machine(gpu(total=24), available=60))
    assert found.refused
    assert not ask(huge, machine(gpu(total=24), available=60, swap=400)).refused, "it would swap"


# --- without a GPU ----------------------------------------------------------------------------------


def test_without_a_gpu_the_machines_memory_counts() -> None:
    found = ask(SMALL, machine(available=10))
    assert (found.verdict, found.memory) == (Verdict.FITS, "host")
    assert found.because == (
        "small needs 3.2 GiB of memory (weights 256 MiB, cache 1.0 GiB for 8192 tokens, other 2.0 GiB), and "
        "10.0 GiB is available."
    )
    assert ask(LLAMA, machine(available=10)).memory == "host", "auto, and there is no GPU"


def test_memory_of_the_backend_that_leaves_counts_as_free() -> None:
    where = machine(available=2, ollama=3)
    assert ask(SMALL, where).verdict == Verdict.DOES_NOT_FIT
    found = ask(SMALL, where, "ollama")
    assert (found.verdict, found.freed) == (Verdict.FITS_AFTER_RELEASE, 3 * GIB)


def test_memory_of_a_backend_that_nobody_can_see_leaves_it_unknown() -> None:
    where = replace(machine(available=2), held={"ollama": None})
    assert ask(SMALL, where, "ollama").verdict == Verdict.UNKNOWN
    assert ask(SMALL, replace(where, available=10 * GIB), "ollama").verdict == Verdict.FITS


def test_only_the_least_it_can_need_is_refused() -> None:
    assert not ask(SMALL, machine(available=2)).refused, "1.75 GiB may be enough"
    assert ask(SMALL, machine(available=1.5)).refused


def test_a_smaller_cache_is_suggested_where_that_is_too_big() -> None:
    wide = replace(SMALL, reserved=40 * GIB)
    found = ask(wide, machine(available=10))
    assert found.refused
    assert options_of(found) == [{"cpuKvCacheGiB": 1}]


def test_a_cache_too_small_for_one_conversation_is_refused() -> None:
    long = replace(SMALL, context=131_072, context_max=131_072)
    found = ask(long, machine(available=10))
    assert found.refused
    assert "One conversation of 131072 tokens needs 2.8 GiB of cache" in found.because
    assert options_of(found)[0] == {"cpuKvCacheGiB": 3}


def test_a_past_start_corrects_the_estimate_by_a_margin() -> None:
    found = ask(SMALL, machine(available=10), past=PastStart(host_bytes=6 * GIB))
    assert found.measured
    assert found.needed == round(6 * GIB * 1.05)
    assert not ask(SMALL, machine(available=1.5), past=PastStart(host_bytes=GIB)).refused


# --- unknown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "where", "why"),
    [
        (None, machine(gpu()), "vLLM does not say what its models need."),
        (unknown("m", "It is damaged."), machine(gpu()), "It is damaged."),
        (QWEN, machine(), "It needs 1 GPUs, and 0 can be seen."),
        (SMALL, Machine(), "It is not known how much memory this machine has."),
    ],
)
def test_what_is_not_known_is_never_refused(
    estimate: Estimate | None, where: Machine, why: str
) -> None:
    found = ask(estimate, where)
    assert (found.verdict, found.because, found.refused) == (Verdict.UNKNOWN, why, False)


def test_a_cache_that_is_not_known_leaves_weights_to_judge_by() -> None:
    blind = replace(QWEN, cache=None)
    found = ask(blind, machine(gpu()))
    assert (found.verdict, found.kv_cache, found.context_fits) == (Verdict.FITS, None, None)
    assert ask(blind, machine(gpu(total=24))).refused


def test_every_suggestion_would_fit() -> None:
    """Ask again with what was suggested, over many machines."""
    names = {"maxModelLen": "context", "tensorParallelSize": "tensor_parallel"}
    for total in range(20, 90, 7):
        for context in (2048, 8192, 32_768, 131_072):
            tried = replace(QWEN, context=context, context_max=131_072)
            where = machine(gpu(total=total), gpu(1, total=total))
            for options in options_of(ask(tried, where)):
                changes: dict[str, Any] = {
                    names.get(name, name): value for name, value in options.items()
                }
                if "kvCacheDtype" in changes:
                    changes = {"cache_format": changes["kvCacheDtype"]}
                if "gpuMemoryUtilization" in changes:
                    changes = {"share": changes["gpuMemoryUtilization"]}
                if "cpuOffloadGiB" in changes:
                    changes = {"offloaded": changes["cpuOffloadGiB"] * GIB}
                if changes:
                    assert ask(replace(tried, **changes), where).verdict == Verdict.FITS, changes


# --- what plugins estimate --------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models; a machine that has the CUDA build and four GPUs."""
    settings.MH_CACHE, settings.MH_MODELS_DIRS = tmp_path / "cache", []
    for name in ("MH_VLLM_PYTHON", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 4)
    return tmp_path / "cache" / "models"


def vllm(model: str, **options: Any) -> Estimate:
    found = VllmEngine().estimate(VllmOptions(model=model, **options))
    assert found.reason == ""
    return found


def test_vllm_estimates_a_known_model(models: Path) -> None:
    write_model(models / "qwen", "Qwen2.5-14B-Instruct", 14_770_033_664)
    found = vllm("qwen", gpuMemoryUtilization=0.8, kvCacheDtype="fp8_e4m3", tensorParallelSize=2)
    assert found.weights == 29_540_067_328
    assert found.weight_bits == 16
    assert (found.context, found.context_max) == (8192, 32_768)
    assert (found.share, found.tensor_parallel, found.cache_format) == (0.8, 2, "fp8")
    assert found.cache_bytes_per_token == 98_304
    assert GIB < found.other < 3 * GIB


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        ("BF16", {}, 2_000_000),
        ("F32", {}, 2_000_000),
        ("BF16", {"dtype": "float32"}, 4_000_000),
        ("BF16", {"quantization": "fp8"}, 1_012_500),
        ("F8_E4M3", {}, 1_000_000),
    ],
)
def test_vllm_casts_and_packs_weights_as_it_loads_them(
    models: Path, stored: str, options: dict[str, Any], expected: int
) -> None:
    write_model(models / "m", "Llama-3.1-8B-Instruct", 1_000_000, kind=stored)
    assert vllm("m", **options).weights == expected


def test_vllms_other_memory_options_count(models: Path) -> None:
    write_model(models / "m", "Llama-3.1-8B-Instruct", 1_000_000)
    found = vllm(
        "m", maxModelLen="auto", kvCacheMemoryGiB=4, pipelineParallelSize=2, cpuOffloadGiB=3,
        maxNumBatchedTokens=4096, gpus=(2, 3),
    )  # fmt: skip
    assert (found.reserved, found.offloaded) == (4 * GIB, 3 * GIB)
    assert (found.pipeline_parallel, found.gpus, found.in_flight) == (2, (2, 3), 4096)
    assert found.context_least == 512
    assert found.memory_options <= set(VllmOptions.model_fields), "no name of an option that is not"


def test_vllm_on_cpu_sets_the_cache_aside(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu_count", lambda: 0)
    write_model(models / "m", "Llama-3.1-8B-Instruct", 1_000_000)
    found = vllm("m", cpuKvCacheGiB=3)
    assert (found.device, found.reserved, found.share) == ("cpu", 3 * GIB, None)


def test_vllm_with_a_missing_or_damaged_model_says_why(models: Path) -> None:
    (models / "m").mkdir(parents=True)
    (models / "m" / "config.json").write_text("{")
    (models / "m" / "model.safetensors").write_bytes(b"nothing")
    for model in ("m", "nosuch"):
        found = VllmEngine().estimate(VllmOptions(model=model))
        assert found.reason.endswith(".")


Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Make an Ollama store with one model, and a projector of 1000 bytes beside it."""

    def make(**facts: int) -> Path:
        import json

        folder = tmp_path / "ollama"
        manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "llama3.1" / "8b"
        manifest.parent.mkdir(parents=True)
        (folder / "blobs").mkdir()
        known = {
            "block_count": 32, "embedding_length": 4096, "context_length": 131_072,
            "attention.head_count": 32, "attention.head_count_kv": 8,
        }  # fmt: skip
        write_gguf(folder / "blobs" / "sha256-aa", "llama", {**known, **facts}, rows=4096)
        (folder / "blobs" / "sha256-bb").write_bytes(bytes(1000))
        (folder / "blobs" / "sha256-cc").write_bytes(b"{}")
        kinds = {"aa": "model", "bb": "projector"}
        layers = [
            {
                "mediaType": f"application/vnd.ollama.image.{kind}",
                "digest": f"sha256:{name}",
                "size": (folder / "blobs" / f"sha256-{name}").stat().st_size,
            }
            for name, kind in kinds.items()
        ]
        config = {"mediaType": "application/json", "digest": "sha256:cc", "size": 2}
        manifest.write_text(json.dumps({"layers": layers, "config": config}))
        return folder

    return make


def test_ollama_estimates_a_model_of_its_store(store: Store) -> None:
    options = OllamaOptions(
        model="llama3.1:8b", modelsDir=str(store()), contextLength=16_384, numParallel=2,
        kvCacheType="q8_0",
    )  # fmt: skip
    found = OllamaEngine().estimate(options)
    assert found.reason == ""
    assert found.weights == 4096 * 4096 // 32 * 18 + 1000
    assert (found.context, found.sequences, found.spills) == (16_384, 2, True)
    assert need(found, on_gpu=True).cache == 65_536 * 34 // 32 * 16_384 * 2


def test_ollamas_context_is_its_own_default_and_never_more_than_the_models(store: Store) -> None:
    folder = str(store(context_length=2048))
    assert (
        OllamaEngine().estimate(OllamaOptions(model="llama3.1:8b", modelsDir=folder)).context
        == 2048
    )


def test_ollama_with_a_missing_or_damaged_model_says_why(store: Store) -> None:
    folder = store()
    (folder / "blobs" / "sha256-aa").write_bytes(b"GGUF")
    for model in ("llama3.1:8b", "nosuch"):
        options = OllamaOptions(model=model, modelsDir=str(folder))
        assert OllamaEngine().estimate(options).reason.endswith(".")
    manifest = folder / "manifests" / "registry.ollama.ai" / "library" / "llama3.1" / "8b"
    manifest.write_text("[" * 100_000)
    options = OllamaOptions(model="llama3.1:8b", modelsDir=str(folder))
    assert OllamaEngine().estimate(options).reason
