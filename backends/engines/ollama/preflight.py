"""Why a start of Ollama cannot work, found before anything is touched."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backends.engines import nvidia
from backends.engines.base import ModelInfo, Problem
from backends.engines.common import open_address
from backends.engines.ollama import installation, store
from backends.engines.ollama.options import OllamaOptions

_NAMES_SHOWN: Final = 5


def preflight(options: OllamaOptions) -> list[Problem]:
    """Return every reason that can be seen without starting anything; empty means go."""
    found = installation.detect()
    problems = [] if found.installed else [_not_installed(found.reason)]
    problems += nvidia.problems(options.gpus)
    return [*problems, *_network(options), *_cache(options), *_store(options)]


def _not_installed(reason: str) -> Problem:
    return Problem(message=reason, code="engine_not_installed")


def _network(options: OllamaOptions) -> Iterator[Problem]:
    return open_address(
        options.host,
        "would let everybody on the network use Ollama, which has no key: set host to 127.0.0.1. Others "
        "reach its models through this site.",
    )


def _cache(options: OllamaOptions) -> Iterator[Problem]:
    if options.kvCacheType in {"q8_0", "q4_0"} and options.flashAttention is False:
        message = (
            f"kvCacheType {options.kvCacheType} needs flash attention: do not set flashAttention to "
            "false, or leave kvCacheType empty."
        )
        yield Problem(message=message, option="kvCacheType")


def _store(options: OllamaOptions) -> Iterator[Problem]:
    folder = store.folder(options)
    reason = _unusable(folder)
    if reason:
        yield Problem(message=reason, option="modelsDir")
    elif options.loadOnStart:
        yield from _model(options, folder)


def _unusable(folder: Path) -> str:
    """Say why Ollama could not keep models in ``folder``; it makes one that does not exist."""
    if not folder.is_absolute():
        return f"modelsDir must be an absolute path, and {folder} is not one."
    if folder.exists():
        usable = folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)
        return "" if usable else f"{folder} is not a folder that Ollama may read and write."
    parent = next(path for path in folder.parents if path.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return ""
    return f"The models folder {folder} does not exist, and {parent} does not let us make it."


def _model(options: OllamaOptions, folder: Path) -> Iterator[Problem]:
    model = store.find(folder, options.model)
    if model is None:
        message = f"The model “{options.model}” is not on this machine. {_offer(options, folder)}"
        yield Problem(message=message, option="model", code="model_not_found")
    elif model.problem:
        message = f"The model “{options.model}” is damaged. {model.problem}"
        yield Problem(message=message, option="model")


def _offer(options: OllamaOptions, folder: Path) -> str:
    usable = [model for model in store.inventory(folder) if not model.problem]
    here = f" Models here: {_names(usable)}." if usable else f" There is no model in {folder} yet."
    return f"Pull it: mh ollama pull {options.model}.{here}"


def _names(models: list[ModelInfo]) -> str:
    shown = ", ".join(model.id for model in models[:_NAMES_SHOWN])
    more = len(models) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
