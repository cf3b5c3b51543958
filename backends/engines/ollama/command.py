"""The command that starts Ollama. It takes its options from the environment."""

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
    }
    return {f"OLLAMA_{name}": str(value) for name, value in values.items() if value is not None}
