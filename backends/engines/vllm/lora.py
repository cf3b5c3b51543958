"""LoRA adapters: where they are, what they need, and why one cannot be served."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from backends.engines.base import Problem
from backends.engines.models_on_disk import Places, resolve
from backends.engines.vllm.options import LoraModule, LoraRank, VllmOptions

RANKS: Final[tuple[int, ...]] = get_args(LoraRank)
#: vLLM's largest rank when nobody says.
DEFAULT_RANK: Final = 16
_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")


def folder(module: LoraModule, places: Places) -> Path | None:
    """Return the folder of an adapter, or None if it is not on this machine."""
    return resolve(module.path, places)


def names(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the adapters in options as they are stored."""
    modules = options.get("loraModules")
    if not isinstance(modules, list | tuple):
        return ()
    found = (module.get("name") for module in modules if isinstance(module, Mapping))
    return tuple(name for name in found if isinstance(name, str))


def wanted(options: VllmOptions) -> bool:
    """Say whether the engine is to be ready for adapters."""
    return options.enableLora or bool(options.loraModules)


def largest_rank(options: VllmOptions, places: Places) -> int | None:
    """Return the rank to start with: as said, else what the adapters need; None for vLLM's own."""
    if options.maxLoraRank is not None:
        return options.maxLoraRank
    folders = [found for module in options.loraModules if (found := folder(module, places))]
    needed = max((_rank(found) for found in folders), default=0)
    if needed <= DEFAULT_RANK:
        return None
    return next((rank for rank in RANKS if rank >= needed), needed)


def as_argument(module: LoraModule, places: Places) -> str:
    """Return an adapter as ``--lora-modules`` takes it: JSON, so that no name can pass for more."""
    path = folder(module, places) or module.path
    return json.dumps({"name": module.name, "path": str(path)})


def problems(options: VllmOptions, places: Places) -> Iterator[Problem]:
    """Say what is wrong with the adapters."""
    for message in _name_problems(options.loraModules, options.served_name):
        yield Problem(message=message, option="loraModules")
    for module in options.loraModules:
        message = _problem_of(module, folder(module, places))
        if message:
            yield Problem(message=message, option="loraModules")
    if options.maxLoraRank is not None:
        yield from _too_large(options, options.maxLoraRank, places)
    if options.maxCpuLoras is not None and options.maxCpuLoras < (options.maxLoras or 1):
        message = f"maxCpuLoras is {options.maxCpuLoras}, and must be at least maxLoras ({options.maxLoras})."
        yield Problem(message=message, option="maxCpuLoras")


def _name_problems(modules: Sequence[LoraModule], served: str) -> Iterator[str]:
    names = [module.name for module in modules]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"Two LoRA modules are called “{name}”. Give each a name of its own."
    if served in names:
        yield f"A LoRA module is called “{served}”, as the model itself is. Give it another name."


def _problem_of(module: LoraModule, path: Path | None) -> str:
    if path is None:
        if module.path.startswith(("/", "~/")):
            return f"The LoRA module “{module.name}” is not in {module.path}: that does not exist."
        return (
            f"The LoRA module “{module.name}” ({module.path}) is not on this machine. Give the "
            "absolute path of its folder."
        )
    if not _read(path):
        return f"The LoRA module “{module.name}” in {path} has no readable {_CONFIG}. Is it an adapter?"
    if not any((path / name).is_file() for name in _WEIGHTS):
        return f"The LoRA module “{module.name}” in {path} has no weights ({_WEIGHTS[0]})."
    if _rank(path) > RANKS[-1]:
        return f"The LoRA module “{module.name}” has rank {_rank(path)}; vLLM can do {RANKS[-1]} at most."
    return ""


def _too_large(options: VllmOptions, limit: int, places: Places) -> Iterator[Problem]:
    for module in options.loraModules:
        path = folder(module, places)
        rank = _rank(path) if path else 0
        if limit < rank <= RANKS[-1]:
            message = (
                f"maxLoraRank is {limit}, and the LoRA module “{module.name}” has rank {rank}. "
                "Leave it empty."
            )
            yield Problem(message=message, option="maxLoraRank")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / _CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _rank(path: Path) -> int:
    said = _read(path).get("r")
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else 0
