"""The command that starts vLLM."""

import contextlib
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
from django.conf import settings

from backends.engines import nvidia
from backends.engines.base import Launch
from backends.engines.models_on_disk import Config, Places, hub_folder, resolve
from backends.engines.vllm import lora, places
from backends.engines.vllm.installation import Installation
from backends.engines.vllm.options import DEFAULT_MAX_MODEL_LEN, VllmOptions

MODULE: Final = "vllm.entrypoints.openai.api_server"
GIB: Final = 2**30


def model_places(options: VllmOptions) -> Places:
    """Return where models are looked for: mh's own, the site's folders, the Hugging Face cache."""
    folders = (
        places.models_folder(),
        *(Path(folder).expanduser() for folder in settings.MH_MODELS_DIRS),
    )
    first = (Path(options.downloadDir).expanduser(),) if options.downloadDir else ()
    return Places(folders=folders, hubs=(*first, hub_folder()))


def find_model(options: VllmOptions) -> Path | None:
    """Return the folder of the model to serve, or None if it is not on this machine."""
    return resolve(options.model, model_places(options), options.revision)


def launch(options: VllmOptions, installation: Installation) -> Launch:
    """Build the command: an argument list, ``--name=value`` so that no value can pass for a flag."""
    model = find_model(options)
    named = _named(options, installation, model)
    return Launch(
        argv=(
            str(installation.python),
            "-m",
            MODULE,
            *(flag for name, value in named.items() for flag in _flags(name, value)),
            *_lora_modules(options),
        ),
        env=_environment(options, installation, model),
        secret_env={"VLLM_API_KEY": options.apiKey} if options.apiKey else {},
        host=options.host,
        port=options.port,
        served_model=options.served_name,
        start_timeout=float(options.startTimeoutSeconds),
        stop_timeout=float(options.stopTimeoutSeconds),
        gpus=_gpus(options, installation),
    )


def gpus_needed(options: VllmOptions) -> int:
    """Return the number of GPUs the model is split over."""
    return options.tensorParallelSize * options.pipelineParallelSize


def _gpus(options: VllmOptions, installation: Installation) -> tuple[int, ...]:
    if installation.build == "cpu":
        return ()
    return nvidia.used_gpus(options.gpus, gpus_needed(options))


def _flags(name: str, value: object) -> Iterator[str]:
    """Yield an argument: nothing for None, ``--name`` and ``--no-name`` for truths, objects as JSON."""
    if value is None:
        return
    if isinstance(value, bool):
        yield f"--{name}" if value else f"--no-{name}"
    elif isinstance(value, dict):
        yield f"--{name}={json.dumps(value)}"
    else:
        yield f"--{name}={value}"


def _named(
    options: VllmOptions, installation: Installation, model: Path | None
) -> dict[str, object]:
    """Return the arguments by name; None where vLLM's own default stands."""
    return {
        "model": model or options.model,
        "served-model-name": options.served_name,
        "host": options.host,
        "port": options.port,
        "max-model-len": "auto" if options.maxModelLen == "auto" else max_model_len(options, model),
        **_memory(options, installation),
        **_parallel(options),
        "dtype": _dtype(options, installation),
        "quantization": options.quantization,
        # On CPU, compiled models start four times as slowly and some answer wrongly.
        "enforce-eager": options.enforceEager or installation.build == "cpu" or None,
        "seed": options.seed,
        "max-num-seqs": options.maxNumSeqs,
        "max-num-batched-tokens": options.maxNumBatchedTokens,
        "reasoning-parser": options.reasoningParser,
        "tool-call-parser": options.toolCallParser,
        "enable-auto-tool-choice": options.autoToolChoice or None,
        "chat-template": options.chatTemplate,
        "trust-remote-code": options.trustRemoteCode or None,
        "enable-sleep-mode": options.sleepMode or None,
        # Of a model that is not here: vLLM itself would look for it.
        "revision": options.revision if model is None else None,
        "download-dir": options.downloadDir if model is None else None,
        **_lora(options),
        **options.extraArguments,
    }


def _dtype(options: VllmOptions, installation: Installation) -> str | None:
    """Return the type of weights; None where vLLM's own choice, the model's, is right."""
    return _cpu_dtype(options) if installation.build == "cpu" else _chosen(options)


def _cpu_dtype(options: VllmOptions) -> str | None:
    """Return the type without a GPU: as said, else 32 bits where 16 would be computed wrongly.

    vLLM's CPU build answers wrongly in bfloat16 through AMX: 0.32.0 with SmolLM2 at temperature 0 told another
    story than from AVX-512 alone, and than from 32 bits.
    """
    if options.dtype == "auto" and has_amx():
        return "float32"
    return _chosen(options)


def _chosen(options: VllmOptions) -> str | None:
    return None if options.dtype == "auto" else options.dtype


@functools.cache
def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor has matrix tiles for bfloat16 (Linux's name for them: ``amx_bf16``)."""
    with contextlib.suppress(OSError):
        return " amx_bf16" in cpuinfo.read_text()
    return False


def _said(value: object, default: object) -> object | None:
    """Return ``value``, or None where it is vLLM's own default."""
    return None if value == default else value


def _memory(options: VllmOptions, installation: Installation) -> dict[str, object]:
    cuda = installation.build != "cpu"
    cache = options.kvCacheMemoryGiB
    return {
        "gpu-memory-utilization": options.gpuMemoryUtilization if cuda else None,
        "kv-cache-memory-bytes": round(cache * GIB) if cache is not None else None,
        "kv-cache-dtype": _said(options.kvCacheDtype, "auto"),
        "kv-offloading-size": options.kvOffloadGiB,
        "cpu-offload-gb": _said(options.cpuOffloadGiB, 0),
        "enable-prefix-caching": options.enablePrefixCaching,
    }


def _parallel(options: VllmOptions) -> dict[str, object]:
    return {
        "tensor-parallel-size": _said(options.tensorParallelSize, 1),
        "pipeline-parallel-size": _said(options.pipelineParallelSize, 1),
        "distributed-executor-backend": options.distributedExecutorBackend,
    }


def _lora(options: VllmOptions) -> dict[str, object]:
    if not lora.wanted(options):
        return {}
    return {
        "enable-lora": True,
        "max-lora-rank": lora.largest_rank(options, model_places(options)),
        "max-loras": options.maxLoras,
        "max-cpu-loras": options.maxCpuLoras,
    }


def _lora_modules(options: VllmOptions) -> tuple[str, ...]:
    """Return the adapters: of ``--lora-modules`` given twice, vLLM keeps the last, so all follow one.

    Each begins with a brace, and so cannot pass for a flag.
    """
    found = model_places(options)
    modules = (lora.as_argument(module, found) for module in options.loraModules)
    return ("--lora-modules", *modules) if options.loraModules else ()


def max_model_len(options: VllmOptions, model: Path | None) -> int:
    """Return the longest conversation in tokens: as said, else the model's, within the default.

    For ``auto`` the model's own: vLLM takes what fits of it.
    """
    if isinstance(options.maxModelLen, int):
        return options.maxModelLen
    limit = Config.read(model).max_length if model else None
    if options.maxModelLen == "auto":
        return limit or DEFAULT_MAX_MODEL_LEN
    return min(limit or DEFAULT_MAX_MODEL_LEN, DEFAULT_MAX_MODEL_LEN)


def _environment(
    options: VllmOptions, installation: Installation, model: Path | None
) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if model is not None:
        env["HF_HUB_OFFLINE"] = "1"
    if installation.build != "cpu":
        env |= nvidia.environment(options.gpus)
    else:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(cpu_kv_cache_gib(options, model))
    if options.sleepMode:
        # Opens /sleep and /wake_up, and with them much else that asks for no key: loopback only.
        env["VLLM_SERVER_DEV_MODE"] = "1"
    if options.rayAddress is not None:
        env["RAY_ADDRESS"] = options.rayAddress
    return env


def cpu_kv_cache_gib(options: VllmOptions, model: Path | None) -> int:
    """Return the memory for keys and values without a GPU, in GiB: as said, else one full conversation's.

    Without a size vLLM takes nearly all memory, and its check for it fails on a shared machine. The
    estimate is at most half of the machine's memory.
    """
    if options.cpuKvCacheGiB is not None:
        return options.cpuKvCacheGiB
    per_token = Config.read(model).kv_bytes_per_token if model else None
    # A model's file says 16 bits.
    widened = 2 if _cpu_dtype(options) in {"float", "float32"} else 1
    needed = math.ceil((per_token or 0) * widened * max_model_len(options, model) * 1.1 / GIB)
    return max(1, min(needed, psutil.virtual_memory().total // 2 // GIB))
