"""The command that starts vLLM."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
from django.conf import settings

from backends.engines import nvidia
from backends.engines.base import Launch
from backends.engines.models_on_disk import Config, Places, hub_folder, resolve
from backends.engines.vllm import places
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
    arguments = dict(_arguments(options, installation, model))
    flags = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in arguments.items()
    ]
    return Launch(
        argv=(str(installation.python), "-m", MODULE, *flags),
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
    return options.tensorParallelSize * (getattr(options, "pipelineParallelSize", None) or 1)


def _gpus(options: VllmOptions, installation: Installation) -> tuple[int, ...]:
    if installation.build == "cpu":
        return ()
    return nvidia.used_gpus(options.gpus, gpus_needed(options))


def _arguments(
    options: VllmOptions, installation: Installation, model: Path | None
) -> Iterator[tuple[str, object]]:
    """Yield names and values; a value of True is a flag."""
    named: dict[str, object] = {
        "model": model or options.model,
        "served-model-name": options.served_name,
        "host": options.host,
        "port": options.port,
        "max-model-len": max_model_len(options, model),
        "gpu-memory-utilization": None
        if installation.build == "cpu"
        else options.gpuMemoryUtilization,
        "tensor-parallel-size": options.tensorParallelSize,
        "dtype": options.dtype,
        "quantization": options.quantization,
        "kv-cache-dtype": options.kvCacheDtype,
        # On CPU, compiled models start four times as slowly and some answer wrongly.
        "enforce-eager": options.enforceEager or installation.build == "cpu",
        "seed": options.seed,
        "reasoning-parser": options.reasoningParser,
        "tool-call-parser": options.toolCallParser,
        "enable-auto-tool-choice": options.autoToolChoice,
        "chat-template": options.chatTemplate,
        "trust-remote-code": options.trustRemoteCode,
        # Of a model that is not here: vLLM itself would look for it.
        "revision": options.revision if model is None else None,
        "download-dir": options.downloadDir if model is None else None,
    }
    # By identity: a seed of 0 is not False.
    return (
        (name, value)
        for name, value in named.items()
        if value is not None and value is not False and value != "auto"
    )


def max_model_len(options: VllmOptions, model: Path | None) -> int:
    """Return the longest conversation in tokens: as said, else the model's, within the default."""
    if options.maxModelLen is not None:
        return options.maxModelLen
    limit = Config.read(model).max_length if model else None
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
    return env


def cpu_kv_cache_gib(options: VllmOptions, model: Path | None) -> int:
    """Return the memory for keys and values without a GPU, in GiB: as said, else one full conversation's.

    Without a size vLLM takes nearly all memory, and its check for it fails on a shared machine. The
    estimate is at most half of the machine's memory.
    """
    if options.cpuKvCacheGiB is not None:
        return options.cpuKvCacheGiB
    per_token = Config.read(model).kv_bytes_per_token if model else None
    needed = math.ceil((per_token or 0) * max_model_len(options, model) * 1.1 / GIB)
    return max(1, min(needed, psutil.virtual_memory().total // 2 // GIB))
