"""What vLLM would need for its options, before it is started.

On a GPU it takes ``gpuMemoryUtilization`` of the memory, must find that free, and must fit weights, what
it needs for computing, and the cache of one longest conversation into it (vLLM 0.32: ``request_memory`` in
``v1/worker/utils.py``, ``v1/core/kv_cache_utils.py``; https://docs.vllm.ai/en/latest/configuration/conserving_memory/).
On CPU it needs weights and the cache it is told to set aside, and checks that this is available
(``v1/worker/cpu_worker.py``).
"""

from pathlib import Path
from typing import Any, Final

from backends.engines.estimates import Estimate, Levers, unknown
from backends.engines.model_files import (
    PLAIN_BITS,
    Unreadable,
    Weights,
    cache_of,
    config_read,
    weights_read,
)
from backends.engines.models_on_disk import Config
from backends.engines.vllm.command import GIB, cpu_kv_cache_gib, find_model, max_model_len
from backends.engines.vllm.installation import NotFoundError, find
from backends.engines.vllm.options import VllmOptions
from backends.engines.vllm.places import build_for_this_machine

MIB: Final = 2**20
#: Tokens in one step and requests at once where nobody says: vLLM's defaults for a server on GPUs
#: under 70 GiB (``EngineArgs.get_batch_defaults``). Larger GPUs take more, and have it.
STEP_TOKENS: Final = 2048
REQUESTS: Final = 256
#: ``maxModelLen`` of ``auto`` is shortened to what fits; nobody wants less than this.
CONTEXT_LEAST: Final = 512
#: What CUDA, its libraries and PyTorch take of a GPU before any tensor, and CUDA graphs.
CUDA_BYTES: Final = 700 * MIB
GRAPH_BYTES: Final = 500 * MIB
#: No CUDA process has been seen to take less.
CUDA_LEAST: Final = 200 * MIB
#: API server, engine core and one worker without weights and cache: measured, docs/explanation/plan.md.
CPU_BYTES: Final = 1700 * MIB
CPU_LEAST: Final = 600 * MIB

_CAST: Final = {"float": 32, "float32": 32}
#: Bits per weight of methods that pack plain weights while they are loaded; scales included.
_PACKING: Final = {
    "fp8": 8.1,
    "fp8_per_tensor": 8.1,
    "fp8_per_block": 8.1,
    "fp8_per_channel": 8.1,
    "deepseek_v4_fp8": 8.1,
    "experts_int8": 8.1,
    "int8_per_channel_weight_only": 8.1,
    "mxfp8": 8.3,
    "bitsandbytes": 4.5,
    "nvfp4_per_token": 4.5,
    "mxfp4": 4.3,
}
_SMALLER: Final = "a 4-bit build of the model (AWQ or GPTQ)"
MEMORY_OPTIONS: Final = frozenset(
    {
        "revision", "gpuMemoryUtilization", "maxModelLen", "kvCacheDtype", "cpuKvCacheGiB", "dtype",
        "quantization", "tensorParallelSize", "pipelineParallelSize", "enforceEager", "gpus",
        "kvCacheMemoryGiB", "kvOffloadGiB", "cpuOffloadGiB", "maxNumSeqs", "maxNumBatchedTokens",
        "enableLora",
        "loraModules", "maxLoras", "maxLoraRank", "extraArguments",
    }
)  # fmt: skip


def estimate(options: VllmOptions) -> Estimate:
    """Return what a start with ``options`` would need. Reads headers only; never raises for a bad model."""
    path = find_model(options)
    if path is None:
        return unknown(options.model, f"The model “{options.model}” is not on this machine.")
    try:
        weights = weights_read(path)
    except Unreadable as error:
        return unknown(options.model, str(error))
    config = config_read(path)
    on_cpu = _build() == "cpu"
    return Estimate(
        model=options.model,
        weights=_loaded_bytes(weights, config, options),
        embedding=weights.table,
        weight_bits=_weight_bits(weights, config, options),
        cache=cache_of(config),
        cache_format=_cache_format(options),
        context=max_model_len(options, path),
        context_least=CONTEXT_LEAST if options.maxModelLen == "auto" else None,
        context_max=config.max_length,
        in_flight=options.maxNumBatchedTokens or STEP_TOKENS,
        attention_heads=config.attention_heads,
        tensor_parallel=options.tensorParallelSize,
        pipeline_parallel=options.pipelineParallelSize,
        gpus=options.gpus,
        memory_options=MEMORY_OPTIONS,
        **(_on_cpu(options, path) if on_cpu else _on_gpu(options, config)),
    )


def _build() -> str:
    try:
        return find().build
    except NotFoundError:
        return build_for_this_machine()


def _on_cpu(options: VllmOptions, path: Path) -> dict[str, Any]:
    return {
        "device": "cpu",
        "reserved": cpu_kv_cache_gib(options, path) * GIB,
        "other": CPU_BYTES,
        "other_least": CPU_LEAST,
        "levers": Levers(
            context="maxModelLen", cache_gib="cpuKvCacheGiB", smaller_weights=_SMALLER
        ),
    }


def _on_gpu(options: VllmOptions, config: Config) -> dict[str, Any]:
    graphs = 0 if options.enforceEager else GRAPH_BYTES
    cache = options.kvCacheMemoryGiB
    return {
        "device": "gpu",
        "share": options.gpuMemoryUtilization,
        "reserved": None if cache is None else round(cache * GIB),
        "offloaded": round(options.cpuOffloadGiB * GIB),
        "other": CUDA_BYTES + graphs + step_bytes(config, options),
        "other_least": CUDA_LEAST,
        "levers": Levers(
            context="maxModelLen",
            share="gpuMemoryUtilization",
            tensor_parallel="tensorParallelSize",
            cache_format=("kvCacheDtype", "fp8"),
            offload="cpuOffloadGiB",
            smaller_weights=_SMALLER,
        ),
    }


def step_bytes(config: Config, options: VllmOptions) -> int:
    """Return the bytes of one step's intermediate results, as vLLM's trial run at its start finds them.

    For every token of a step rows of 2-byte numbers: six as wide as the model, and two as wide as its
    widest layer; for every request three rows with a 4-byte number for every word, while it is sorted.
    """
    hidden = _number(config, "hidden_size")
    widest = max(_number(config, "intermediate_size"), _number(config, "moe_intermediate_size"))
    tokens = options.maxNumBatchedTokens or STEP_TOKENS
    requests = options.maxNumSeqs or REQUESTS
    rows = tokens * 2 * (6 * hidden + 2 * widest // options.tensorParallelSize)
    return int(rows + requests * 4 * 3 * _number(config, "vocab_size"))


def _number(config: Config, name: str) -> int:
    value = config.text.get(name)
    return value if isinstance(value, int) and 0 < value < 1 << 32 else 0


def _loaded_bytes(weights: Weights, config: Config, options: VllmOptions) -> int:
    """Return the bytes in memory: plain numbers are cast to ``dtype``, or packed by ``quantization``.

    ``auto`` never computes in more than 16 bits. Tables of words are not packed.
    """
    bits = _CAST.get(options.dtype, 16)
    plain = sum(
        size * min(bits, 32) // stored
        for kind, size in weights.by_type.items()
        if (stored := PLAIN_BITS.get(kind))
    )
    rest = sum(size for kind, size in weights.by_type.items() if kind not in PLAIN_BITS)
    if weights.last_table and config.raw.get("tie_word_embeddings", False):
        plain -= min(plain, weights.last_table)
    packing = _PACKING.get(options.quantization or "")
    if packing and not config.quantization:
        tables = min(plain, weights.table + weights.last_table)
        plain = tables + round((plain - tables) * packing / bits)
    return plain + rest


def _weight_bits(weights: Weights, config: Config, options: VllmOptions) -> float | None:
    """Return bits per weight where they are plain numbers, else None."""
    if config.quantization or options.quantization or not set(weights.by_type) & set(PLAIN_BITS):
        return None
    return float(_CAST.get(options.dtype, 16))


def _cache_format(options: VllmOptions) -> str:
    said = options.kvCacheDtype
    if said.startswith("fp8"):
        return "fp8"
    return "f32" if said == "auto" and options.dtype in _CAST else "f16"
