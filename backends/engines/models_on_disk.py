"""Models in folders: where they are, whether they are complete, what their configuration says.

Read with the standard library alone: the site does not carry ``huggingface_hub``, and a listing must not
touch the network. Layout of the Hugging Face cache:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from backends.engines.base import ModelInfo

#: Longest header a safetensors file may have, in bytes (https://github.com/huggingface/safetensors).
SAFETENSORS_HEADER_MAX: Final = 100_000_000
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt")
_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
#: Names of a model's longest context in the configurations of its family, as vLLM reads them.
_LENGTH_KEYS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
)
#: Kinds of rotary embedding whose configurations give the stretched length.
_STRETCHED_ALREADY: Final = frozenset(
    {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
)


Place = Literal["hub", "folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where models are looked for."""

    #: Folders whose subfolders are models, or publishers with models in them.
    folders: tuple[Path, ...] = ()
    #: Folders in the Hugging Face cache's layout.
    hubs: tuple[Path, ...] = ()


def hub_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the Hugging Face cache folder, by the same variables as ``huggingface_hub``."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(environ[name]).expanduser()
    if environ.get("HF_HOME"):
        return Path(environ["HF_HOME"]).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def resolve(model: str, places: Places, revision: str | None = None) -> Path | None:
    """Return the folder of ``model``, or None if it is not on this machine.

    An absolute path (``~/`` too) names itself. A name is looked for among the folders first, then in the caches. The
    folder exists; whether it can be served is ``problem_of``'s to say.
    """
    path = Path(model).expanduser() if model.startswith("~/") else Path(model)
    if path.is_absolute():
        return path if path.exists() else None
    if not _is_name(model):
        return None
    for folder in places.folders:
        if (folder / model).is_dir():
            return folder / model
    for hub in places.hubs:
        snapshot = _snapshot(hub / f"models--{model.replace('/', '--')}", revision)
        if snapshot is not None:
            return snapshot
    return None


def _is_name(model: str) -> bool:
    """Say whether ``model`` is ``name`` or ``publisher/name``; nothing that leads out of a folder."""
    parts = model.split("/")
    return len(parts) <= 2 and all(re.fullmatch(r"\w[\w.-]*", part) for part in parts)  # noqa: PLR2004


def _snapshot(repository: Path, revision: str | None) -> Path | None:
    """Return the snapshot of a branch, a tag or a commit in the cache's folder of one model."""
    revision = revision or "main"
    if ".." in revision.split("/"):
        return None
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    snapshot = repository / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def inventory(places: Places) -> list[ModelInfo]:
    """List the models in ``places`` by name; incomplete ones say so in ``problem``."""
    found: dict[str, ModelInfo] = {}
    for name, path, place in _candidates(places):
        if name not in found:
            found[name] = _model(name, path, place)
    return sorted(found.values(), key=lambda model: model.id.lower())


def _model(name: str, path: Path, place: Place) -> ModelInfo:
    config = Config.read(path)
    return ModelInfo(
        id=name,
        path=str(path),
        size_bytes=size_of(path),
        problem=problem_of(path, check_weights=False),
        place=place,
        architecture=config.architecture,
        quantization=config.quantization or "",
        context_length=config.max_length,
    )


def _candidates(places: Places) -> Iterator[tuple[str, Path, Place]]:
    for folder in places.folders:
        for child in _subfolders(folder):
            if (child / "config.json").exists():
                yield child.name, child, "folder"
            else:
                for model in _subfolders(child):
                    if (model / "config.json").exists():
                        yield f"{child.name}/{model.name}", model, "folder"
    for hub in places.hubs:
        for repository in _subfolders(hub):
            snapshot = _snapshot(repository, None)
            if repository.name.startswith("models--") and snapshot is not None:
                name = repository.name.removeprefix("models--").replace("--", "/", 1)
                yield name, snapshot, "hub"


def _subfolders(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [child for child in children if child.is_dir() and not child.name.startswith(".")]


def problem_of(path: Path, *, check_weights: bool = True) -> str:
    """Say why the model in ``path`` cannot be served, in a sentence; empty when nothing is seen.

    Args:
        path: the model's folder.
        check_weights: also read the header of every safetensors file.
    """
    if not path.exists():
        return f"{path} does not exist."
    if not path.is_dir():
        return f"{path} is a file; a model is a folder with a config.json and its weights."
    try:
        if not any(path.iterdir()):
            return f"{path} is empty."
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}."
    return (
        _problem_of_config(path)
        or _problem_of_files(path)
        or (_problem_of_weights(path) if check_weights else "")
    )


def _problem_of_config(path: Path) -> str:
    file = path / "config.json"
    if not file.exists():
        # Mistral's own layout has params.json instead.
        return "" if (path / "params.json").exists() else f"{path} has no config.json."
    try:
        valid = isinstance(json.loads(file.read_bytes()), dict)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}."
    except (ValueError, RecursionError):
        valid = False
    return "" if valid else f"{file} is not valid JSON."


def _problem_of_files(path: Path) -> str:
    for name in _INDEXES:
        if (path / name).exists():
            return _problem_of_index(path, path / name)
    if not weights_of(path):
        return f"{path} has no weights (*.safetensors)."
    return ""


def _problem_of_index(path: Path, index: Path) -> str:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{index} is not a valid index of weights."
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        return f"{path} is not complete: {missing[0]} is missing ({len(missing)} of {len(names)} files)."
    return ""


def _problem_of_weights(path: Path) -> str:
    for file in sorted(path.glob("*.safetensors")):
        problem = safetensors_problem(file)
        if problem:
            return f"{file} is damaged: {problem}. Download or copy the model again."
    return ""


def safetensors_problem(file: Path) -> str:
    """Compare a safetensors file's header with its size; say what is wrong, or nothing.

    The format: 8 bytes, the header's length as a little-endian integer; the header, JSON, with the
    ``data_offsets`` of every tensor from the header's end; the data, without gaps.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            if len(start) < 8:  # noqa: PLR2004
                return "it is too short"
            (length,) = struct.unpack("<Q", start)
            if length > min(SAFETENSORS_HEADER_MAX, size - 8):
                return "its header says it is longer than the file"
            header = json.loads(opened.read(length))
        ends = [
            tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
        ]
        expected = 8 + length + max(ends, default=0)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "its header is not valid"
    if size != expected:
        return f"it has {size} bytes where its header says {expected}"
    return ""


def weights_of(path: Path) -> list[Path]:
    """Return the weight files in a model's folder."""
    return [file for pattern in _WEIGHTS for file in path.glob(pattern) if file.is_file()]


def size_of(path: Path) -> int:
    """Return the bytes of a model's weights on disk."""
    # The cache keeps several formats of one model side by side; the engine reads one.
    safetensors = [file for file in path.glob("*.safetensors") if file.is_file()]
    return sum(file.stat().st_size for file in safetensors or weights_of(path))


class Config:
    """What a model's ``config.json`` says, read leniently: a missing fact is None."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        text = raw.get("text_config")
        #: Models with pictures keep the language model's facts one level down.
        self.text: Mapping[str, Any] = text if isinstance(text, dict) else raw

    @classmethod
    def read(cls, path: Path) -> "Config":
        """Read the configuration in a model's folder; empty if there is none that can be read."""
        try:
            raw = json.loads((path / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return cls({})
        return cls(raw if isinstance(raw, dict) else {})

    @property
    def architecture(self) -> str:
        """The class that runs the model, as it says: ``Qwen2ForCausalLM``; empty where it does not."""
        named = self.raw.get("architectures")
        first = next(iter(named), "") if isinstance(named, list) else ""
        return str(first or self.raw.get("model_type") or "")

    @property
    def max_length(self) -> int | None:
        """Longest context in tokens, worked out as vLLM does (``_get_and_verify_max_len``)."""
        lengths = [n for n in (_positive(self.text.get(key)) for key in _LENGTH_KEYS) if n]
        if not lengths:
            return None
        stretched = int(min(lengths) * self._stretch())
        return max(stretched, _positive(self.text.get("model_max_length")) or 0)

    def _stretch(self) -> float:
        """Factor of a rotary embedding whose ``max_position_embeddings`` is the length before it."""
        rope = self.text.get("rope_scaling") or self.text.get("rope_parameters")
        if not isinstance(rope, dict):
            return 1.0
        kind, factor = rope.get("rope_type") or rope.get("type"), rope.get("factor")
        if kind in _STRETCHED_ALREADY or not isinstance(factor, int | float):
            return 1.0
        return max(1.0, float(factor))

    @property
    def attention_heads(self) -> int | None:
        """Number of attention heads."""
        return _positive(self.text.get("num_attention_heads")) or _positive(self.text.get("n_head"))

    @property
    def layers(self) -> int | None:
        """Number of layers."""
        return _positive(self.text.get("num_hidden_layers")) or _positive(self.text.get("n_layer"))

    @property
    def quantization(self) -> str | None:
        """How the weights are packed, as the model says."""
        for holder in (self.raw, self.text):
            said = holder.get("quantization_config") or holder.get("compression_config")
            if isinstance(said, dict):
                return str(said.get("quant_method") or "unknown").lower()
        return None

    @property
    def kv_bytes_per_token(self) -> int | None:
        """Bytes of keys and values per token at two bytes a number, for plain attention."""
        layers = _positive(self.text.get("num_hidden_layers"))
        heads = self.attention_heads
        kv_heads = _positive(self.text.get("num_key_value_heads")) or heads
        size = _positive(self.text.get("head_dim"))
        hidden = _positive(self.text.get("hidden_size"))
        if size is None and hidden and heads:
            size = hidden // heads
        if not (layers and kv_heads and size):
            return None
        return 2 * 2 * layers * kv_heads * size


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def names_like(models: Sequence[ModelInfo], limit: int = 5) -> str:
    """Return the names of servable models for the end of a sentence: "a, b and 3 more"."""
    names = [model.id for model in models if not model.problem]
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
