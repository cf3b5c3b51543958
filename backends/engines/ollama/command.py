"""The command that starts Ollama. It takes its options from the environment."""

from dataclasses import replace
from pathlib import Path

from backends.engines import nvidia
from backends.engines.base import Launch
from backends.engines.ollama import store
from backends.engines.ollama.options import OllamaOptions


def launch(options: OllamaOptions, binary: Path) -> Launch:
    """Build the command: ``ollama serve`` and what it is told."""
    return Launch(
        argv=(str(binary), "serve"),
        env=environment(options) | nvidia.environment(options.gpus),
        host=options.host,
        port=options.port,
        served_model=options.model,
        start_timeout=float(options.startTimeoutSeconds),
        stop_timeout=float(options.stopTimeoutSeconds),
        gpus=nvidia.used_gpus(options.gpus),
        warm=options.loadOnStart and options.keeps_models,
    )


def library_launch(options: OllamaOptions, binary: Path, port: int) -> Launch:
    """Build the command of a server that only looks after the store: no GPU is shown to it."""
    made = launch(options.model_copy(update={"host": "127.0.0.1", "port": port}), binary)
    hidden = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "-1")
    return replace(made, env=made.env | hidden, start_timeout=30.0, warm=False)


def environment(options: OllamaOptions) -> dict[str, str]:
    """Return the variables for ``options``; what is not said stays Ollama's own choice."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    values: dict[str, object] = {
        "HOST": f"{host}:{options.port}",
        # Always said: detection and server must mean the same folder.
        "MODELS": store.folder(options),
        "KEEP_ALIVE": options.keepAlive,
        "CONTEXT_LENGTH": options.contextLength,
        "NUM_PARALLEL": options.numParallel,
        "MAX_LOADED_MODELS": options.maxLoadedModels,
        "FLASH_ATTENTION": None if options.flashAttention is None else int(options.flashAttention),
        "KV_CACHE_TYPE": options.kvCacheType,
        # A server that starts clears away what no model names: a download under way, or to be gone on with.
        "NOPRUNE": 1,
    }
    return {f"OLLAMA_{name}": str(value) for name, value in values.items() if value is not None}
