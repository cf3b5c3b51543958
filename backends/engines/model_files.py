"""How big a model is and what it keeps per token, from the files of its folder.

Of weights only the headers are read (https://github.com/huggingface/safetensors#format): 8 bytes, the
header's length; the header, JSON, with type and ``data_offsets`` of every tensor. A broken file is an
``Unreadable``, whatever is wrong with it; reading takes at most ``SECONDS_MAX``.
"""

import json
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backends.engines.estimates import Cache
from backends.engines.models_on_disk import Config, weights_of

#: Seconds that reading one model's files may take.
SECONDS_MAX: Final = 2.0
#: Bytes of headers of one model: DeepSeek-V3, 671 billion parameters, has 11 million.
HEADERS_MAX: Final = 64 << 20
CONFIG_MAX: Final = 8 << 20
_INDEX: Final = "model.safetensors.index.json"
#: Names of tables of words, the first and the last layer.
_TABLES: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "lm_head.weight")
#: Bits of a number, by the types of safetensors that hold plain numbers.
PLAIN_BITS: Final = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}

#: What configurations leave out because their classes in ``transformers`` have it as defaults.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "gemma2": {
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2,
    },
    "gemma3_text": {
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
    },
    "cohere2": {"sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window_pattern": 2},
}  # fmt: skip
_FULL: Final = frozenset({"full_attention", "attention", "global", "full"})
_WINDOWED: Final = frozenset({"sliding_attention", "chunked_attention", "local", "sliding"})


class Unreadable(Exception):
    """The files do not say; the message is a sentence for a person."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a model's tensors."""

    #: By type, as safetensors names it: ``BF16``, ``I32``. ``?`` where files do not say.
    by_type: Mapping[str, int] = field(default_factory=dict)
    #: The largest table of words, in bytes, and whether the last layer's table is stored beside the first.
    table: int = 0
    last_table: int = 0

    @property
    def total(self) -> int:
        """All of them, as they lie on disk."""
        return sum(self.by_type.values())


def weights_read(path: Path, *, seconds: float = SECONDS_MAX) -> Weights:
    """Return the sizes of the tensors of the model in ``path``.

    Raises:
        Unreadable: there are none, a file is damaged, or it took longer than ``seconds``.
    """
    try:
        files = _tensor_files(path)
        if not files:
            return _pickled(path)
        return _summed(_entries(files, time.monotonic() + seconds))
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}.") from error


def _tensor_files(path: Path) -> list[Path]:
    """Return the files an engine reads: those of the index, else all; Mistral's second copy is left out."""
    index = path / _INDEX
    if index.is_file():
        content = _object(index, HEADERS_MAX)
        names = content.get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise Unreadable(f"{index} is not a valid index of weights.")
        return [path / Path(name).name for name in sorted(set(names.values()))]
    files = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    own = [file for file in files if not file.name.startswith("consolidated")]
    return own or files


def _object(file: Path, limit: int) -> dict[str, Any]:
    """Read a JSON object of at most ``limit`` bytes."""
    if not file.is_file():
        raise Unreadable(f"{file} is missing.")
    with file.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise Unreadable(f"{file} is too long to be what its name says.")
    return _parsed(content, file)


def _parsed(content: bytes, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{file} is not valid JSON.") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{file} is not a JSON object.")
    return found


def _entries(files: list[Path], deadline: float) -> Iterator[tuple[str, str, int]]:
    """Yield name, type and bytes of every tensor."""
    left = HEADERS_MAX
    for file in files:
        if time.monotonic() > deadline:
            raise Unreadable(f"Reading the headers in {file.parent} takes too long.")
        header, read = _header(file, left)
        left -= read
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, *_tensor(tensor, file)


def _header(file: Path, limit: int) -> tuple[dict[str, Any], int]:
    if not file.is_file():
        raise Unreadable(f"{file} is missing.")
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0  # noqa: PLR2004
        if not 0 < length <= min(limit, file.stat().st_size - 8):
            raise Unreadable(f"{file} is damaged: its header does not fit into it.")
        return _parsed(opened.read(length), file), length


def _tensor(said: Any, file: Path) -> tuple[str, int]:
    try:
        begin, end = said["data_offsets"]
        kind, size = str(said["dtype"]), end - begin
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{file} is damaged: its header is not valid.") from error
    if not (isinstance(size, int) and 0 <= begin <= end <= file.stat().st_size):
        raise Unreadable(f"{file} is damaged: a tensor lies outside of it.")
    return kind, size


def _summed(entries: Iterator[tuple[str, str, int]]) -> Weights:
    by_type: Counter[str] = Counter()
    tables: dict[str, int] = {}
    for name, kind, size in entries:
        by_type[kind] += size
        table = next((known for known in _TABLES if name.endswith(known)), "")
        if table:
            tables[table] = max(size, tables.get(table, 0))
    last = tables.get("lm_head.weight", 0) if len(tables) > 1 else 0
    return Weights(dict(by_type), max(tables.values(), default=0), last)


def _pickled(path: Path) -> Weights:
    """Return the size of weights in PyTorch's own files, which are little more than the tensors."""
    size = sum(file.stat().st_size for file in weights_of(path))
    if not size:
        raise Unreadable(f"{path} has no weights that can be read.")
    return Weights({"?": size})


def config_read(path: Path) -> Config:
    """Return what ``config.json`` in ``path`` says; nothing if it cannot be read."""
    try:
        return Config(_object(path / "config.json", CONFIG_MAX))
    except (OSError, Unreadable):
        return Config({})


def cache_of(config: Config) -> Cache | None:
    """Return what a model keeps of a conversation, by its configuration; None if that does not say."""
    text = {**_DEFAULTS.get(str(config.text.get("model_type")), {}), **config.text}
    layers = _count(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if not layers or layers > 10_000:  # noqa: PLR2004
        return None
    rank = _count(text, "kv_lora_rank")
    if rank:
        each = rank + (_count(text, "qk_rope_head_dim") or 0)
        return Cache(per_token=layers * each, layers=layers, heads=None)
    heads, size = _heads_and_size(text)
    if not heads or not size:
        return None
    whole, windowed = _kinds(text, layers)
    window = _count(text, "sliding_window", "attention_chunk_size") or 0
    each = 2 * heads * size
    return Cache(
        per_token=whole * each,
        windows=((windowed * each, window),) if windowed else (),
        layers=max(1, whole + windowed),
        heads=heads,
    )


def _count(text: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of ``names`` that is a whole number above 0."""
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return None


def _heads_and_size(text: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the heads that have keys and values of their own, and the numbers in each."""
    heads = _count(text, "num_attention_heads", "n_head", "n_heads")
    own = _count(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if own is None:
        own = 1 if text.get("multi_query") is True else heads
    hidden = _count(text, "hidden_size", "n_embd", "d_model")
    size = _count(text, "head_dim", "kv_channels", "attention_head_dim")
    if size is None and hidden and heads:
        size = hidden // heads
    return own, size


def _kinds(text: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """Return how many layers keep the whole conversation, and how many a window of it.

    The others, of models that mix attention with recurrent layers, keep the same for any length.
    """
    said = text.get("layer_types") or text.get("layers_block_type")
    window = _count(text, "sliding_window", "attention_chunk_size")
    if isinstance(said, list) and said:
        windowed = sum(kind in _WINDOWED for kind in said)
        whole = sum(kind in _FULL for kind in said)
        return (whole, windowed) if window else (whole + windowed, 0)
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern.count("*"), 0
    every = _count(text, "full_attention_interval", "attn_layer_period")
    if every:
        return layers // every, 0
    if window is None or text.get("use_sliding_window") is False:
        return layers, 0
    every = _count(text, "sliding_window_pattern", "_sliding_window_pattern")
    whole = layers // every if every else 0
    return whole, layers - whole
