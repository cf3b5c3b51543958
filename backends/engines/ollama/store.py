"""Ollama's models on disk, read without a server.

``manifests/<host>/<namespace>/<model>/<tag>`` is a JSON manifest as container registries have it; its
layers lie in ``blobs/sha256-<hex>``.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from backends.engines.base import ModelInfo
from backends.engines.ollama.names import Name, is_same
from backends.engines.ollama.options import OllamaOptions

#: Names more folders than anybody's store has: a wrong ``modelsDir`` must not be searched for ever.
MODELS_MAX: Final = 10_000
_MANIFEST_MAX: Final = 1 << 20


def folder(options: OllamaOptions) -> Path:
    """Return the models folder: as said, else ``OLLAMA_MODELS`` of our environment, else Ollama's own."""
    named = options.modelsDir or os.environ.get("OLLAMA_MODELS")
    return Path(named).expanduser() if named else Path.home() / ".ollama" / "models"


def inventory(store: Path) -> list[ModelInfo]:
    """List every model of the store by name; one that is damaged says how."""
    found = (_model(store, path) for path in _manifests(store))
    return sorted(found, key=lambda model: model.id.casefold())


def find(store: Path, name: str) -> ModelInfo | None:
    """Return the model called ``name``, or None if the store does not have it."""
    path = Name.parse(name).manifest(store)
    if not path.is_file():
        others = (path for path in _manifests(store) if is_same(_name_of(path), name))
        path = next(others, path)
    return _model(store, path) if path.is_file() else None


def _manifests(store: Path) -> Iterator[Path]:
    """Yield the manifests: exactly four levels down, nothing hidden."""
    paths = (store / "manifests").glob("*/*/*/*")
    for _, path in zip(range(MODELS_MAX), paths, strict=False):
        parts = path.parts[-4:]
        if not any(part.startswith(".") for part in parts) and path.is_file():
            yield path


def _name_of(manifest: Path) -> str:
    return Name(*manifest.parts[-4:]).short


def _model(store: Path, manifest: Path) -> ModelInfo:
    layers, facts = _layers(manifest), _facts(store, manifest)
    problem = _damage(store, layers) if layers else "Its manifest cannot be read."
    return ModelInfo(
        id=_name_of(manifest),
        path=str(manifest),
        size_bytes=sum(size for _, size in layers),
        problem=f"{problem} Pull it again: mh ollama pull {_name_of(manifest)}" if problem else "",
        place="store",
        architecture=str(facts.get("model_family") or ""),
        quantization=str(facts.get("file_type") or ""),
    )


def _facts(store: Path, manifest: Path) -> dict[str, Any]:
    """Return what the configuration in a model's store says of it; empty where it cannot be read."""
    try:
        config = json.loads(manifest.read_bytes())["config"]["digest"].replace(":", "-")
        with (store / "blobs" / config).open("rb") as file:
            found = json.loads(file.read(_MANIFEST_MAX))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _layers(manifest: Path) -> list[tuple[str, int]]:
    """Return digest and size of everything a model is made of; nothing if that cannot be read."""
    try:
        with manifest.open("rb") as file:
            content = json.loads(file.read(_MANIFEST_MAX))
        parts: list[dict[str, Any]] = [*content["layers"], content["config"]]
        return [(str(part["digest"]), int(part["size"])) for part in parts]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _damage(store: Path, layers: list[tuple[str, int]]) -> str:
    for digest, size in layers:
        blob = store / "blobs" / digest.replace(":", "-")
        try:
            here = blob.stat().st_size
        except PermissionError:
            continue  # another user's store: its server can read it
        except OSError:
            return f"A part of it is missing ({digest[:19]})."
        if here != size:
            return f"A part of it is incomplete ({digest[:19]}: {here} of {size} bytes)."
    return ""
