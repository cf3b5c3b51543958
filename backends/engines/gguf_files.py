"""How big a GGUF model is and what it keeps per token, from the header of its file.

Read with the ``gguf`` library, which maps the file and brings numpy along, so it is imported when first
needed.
"""

import functools
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backends.engines.estimates import Cache
from backends.engines.model_files import SECONDS_MAX, Unreadable

_LAYERS_MAX: Final = 10_000
#: Every so many layers one keeps the whole conversation, where the header gives a window and no pattern.
_WHOLE_EVERY: Final = {"gemma2": 2, "gemma3": 6, "gptoss": 2, "gpt-oss": 2, "cohere2": 4}


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a header says."""

    weights: int
    #: Bits per weight, over all of them.
    bits: float
    cache: Cache | None
    context_max: int | None
    #: Numbers per token between the layers, attention heads, words known.
    embedding: int | None
    heads: int | None
    words: int | None


def gguf_read(file: Path, *, seconds: float = SECONDS_MAX) -> GgufModel:
    """Return what the header of ``file`` says; the answer for a file that has not changed is kept.

    Raises:
        Unreadable: it is not a GGUF file, is damaged, or reading it took longer than ``seconds``.
    """
    try:
        if not file.is_file():
            raise Unreadable(f"{file} is missing.")
        seen = file.stat()
        return _read(file, seen.st_size, seen.st_mtime_ns, seconds)
    except OSError as error:
        raise Unreadable(f"{file} cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=64)
def _read(file: Path, size: int, changed: int, seconds: float) -> GgufModel:
    del size, changed  # of the key only
    try:
        from backends.engines.gguf_header import Header

        reader = Header(file, time.monotonic() + seconds)
        facts = {name: entry.contents() for name, entry in reader.fields.items()}
        sizes = [(int(tensor.n_bytes), int(tensor.n_elements)) for tensor in reader.tensors]
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise Unreadable(f"{file} is not a GGUF model that can be read: {error}.") from error
    weights, numbers = (sum(column) for column in zip(*sizes, strict=True)) if sizes else (0, 0)
    if weights <= 0 or numbers <= 0:
        raise Unreadable(f"{file} has no weights.")
    return _model(facts, weights, numbers)


def _model(facts: Mapping[str, Any], weights: int, numbers: int) -> GgufModel:
    kind = str(facts.get("general.architecture"))
    own = {name.removeprefix(f"{kind}."): value for name, value in facts.items()}
    return GgufModel(
        weights=weights,
        bits=weights * 8 / numbers,
        cache=_cache(kind, own),
        context_max=_number(own.get("context_length")),
        embedding=_number(own.get("embedding_length")),
        heads=max(_per_layer(own.get("attention.head_count"), 1), default=None),
        words=_number(own.get("vocab_size")) or _number(facts.get("tokenizer.ggml.tokens")),
    )


def _number(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40
    return int(value) if good else None


def _per_layer(value: Any, layers: int) -> list[int]:
    """Return one number per layer, of a number for all of them or a list; nothing if it is neither."""
    if isinstance(value, list):
        return [number for number in value if isinstance(number, int) and number >= 0]
    number = _number(value)
    return [] if number is None else [number] * layers


def _cache(kind: str, own: Mapping[str, Any]) -> Cache | None:
    layers = _number(own.get("block_count"))
    if layers is None or layers > _LAYERS_MAX:
        return None
    heads = _per_layer(own.get("attention.head_count"), layers)
    kept = _per_layer(own.get("attention.head_count_kv"), layers) or heads
    embedding = _number(own.get("embedding_length"))
    plain = embedding // max(heads) if embedding and heads and max(heads) else None
    keys = _number(own.get("attention.key_length")) or plain
    values = _number(own.get("attention.value_length")) or plain
    if not kept or not keys or not values:
        return None
    if "attention.key_length_mla" in own:
        values = 0  # latent attention: llama.cpp reads the values out of what it keeps as keys
    whole, windowed = _split(kind, own, kept[:layers])
    window = _number(own.get("attention.sliding_window")) or 0
    each = keys + values
    return Cache(
        per_token=sum(whole) * each,
        windows=((sum(windowed) * each, window),) if windowed else (),
        layers=max(1, sum(1 for heads_here in kept[:layers] if heads_here)),
        heads=max(kept) or None,
    )


def _split(kind: str, own: Mapping[str, Any], kept: list[int]) -> tuple[list[int], list[int]]:
    """Return the heads of layers that keep the whole conversation, and of those with a window."""
    pattern = own.get("attention.sliding_window_pattern")
    every = _number(pattern) or _WHOLE_EVERY.get(kind)
    if _number(own.get("attention.sliding_window")) is None:
        return kept, []
    if isinstance(pattern, list) and len(pattern) >= len(kept):
        marks = [bool(mark) for mark in pattern]
    elif every:
        marks = [number % every != every - 1 for number in range(len(kept))]
    else:
        return kept, []
    pairs = list(zip(kept, marks, strict=False))
    return [n for n, mark in pairs if not mark], [n for n, mark in pairs if mark]
