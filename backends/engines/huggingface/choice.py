"""Which files of a model are needed to serve it: one format of its weights, and everything small."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

from backends.engines.huggingface.api import HubFile

#: Ends of files that hold weights, or what is left of a training.
_WEIGHTS: Final = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|onnx_data|ot|gguf|ggml|tflite|mlmodel|npz|nemo|engine"
    r"|pkl|pickle|keras|model_data|pdparams|llamafile|zip|gz|tar|data)"
)
#: Ends of files that nobody needs to serve a model.
_DECORATION: Final = re.compile(r"\.(png|jpg|jpeg|gif|webp|svg|mp4|mov|wav|mp3|flac|pdf|ipynb)")
#: What a training leaves beside the weights.
_TRAINING: Final = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "events.out")
#: Of formats side by side, the first that is there is taken, as vLLM does.
_FORMATS: Final = (".safetensors", ".bin", ".pt")
#: Facts without which a folder is no model: Transformers', Mistral's, an adapter's.
_FACTS: Final = frozenset({"config.json", "params.json", "adapter_config.json"})


def chosen(files: Iterable[HubFile]) -> list[HubFile]:
    """Return the files to fetch; empty when there is no model in them that vLLM could serve."""
    every = list(files)
    weights = _weights([file for file in every if "/" not in file.path])
    if not weights or not any(file.path in _FACTS for file in every):
        return []
    return sorted([*weights, *filter(_is_small_thing, every)], key=lambda file: file.path)


def _weights(files: Sequence[HubFile]) -> list[HubFile]:
    for end in _FORMATS:
        found = [file for file in files if _end(file) == end and not _is_training(file)]
        if found:
            return _once(found)
    return []


def _once(weights: list[HubFile]) -> list[HubFile]:
    """Leave out Mistral's own layout of the same weights, where Transformers' is there too."""
    usual = [file for file in weights if not file.path.startswith("consolidated")]
    return usual or weights


def _is_small_thing(file: HubFile) -> bool:
    hidden = any(part.startswith(".") for part in PurePosixPath(file.path).parts)
    end = _end(file)
    unwanted = _WEIGHTS.fullmatch(end) or _DECORATION.fullmatch(end)
    return not (hidden or unwanted or _is_training(file))


def _is_training(file: HubFile) -> bool:
    return PurePosixPath(file.path).name.startswith(_TRAINING)


def _end(file: HubFile) -> str:
    return PurePosixPath(file.path).suffix.lower()
