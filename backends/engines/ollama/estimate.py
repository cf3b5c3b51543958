"""What Ollama would need for its default model, before it is loaded.

Ollama puts as many layers on the GPUs as fit, and keeps the others on the machine. Its own estimate, of
which ``_step_bytes`` is the part for intermediate results: ``GraphSize`` in ``fs/ggml/ggml.go`` of Ollama.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.engines.estimates import Estimate, Levers, unknown
from backends.engines.gguf_files import GgufModel, gguf_read
from backends.engines.model_files import Unreadable
from backends.engines.ollama import store
from backends.engines.ollama.options import OllamaOptions

MIB: Final = 2**20
#: Ollama's context where nobody says and the GPUs have under 24 GiB; it takes more only where there is more.
DEFAULT_CONTEXT: Final = 4096
#: Tokens a runner works on in one step (llama.cpp's ``n_ubatch``).
STEP_TOKENS: Final = 512
#: What a runner takes of a GPU before any tensor: Ollama sets 457 MiB aside (``discover``).
RUNNER_BYTES: Final = 457 * MIB
RUNNER_LEAST: Final = 50 * MIB
_MANIFEST_MAX: Final = 1 << 20
_MODEL: Final = "application/vnd.ollama.image.model"
#: Layers of a manifest that are loaded beside the model.
_BESIDE: Final = ("application/vnd.ollama.image.projector", "application/vnd.ollama.image.adapter")
_LEVERS: Final = Levers(
    context="contextLength",
    cache_format=("kvCacheType", "q8_0"),
    smaller_weights="a smaller quantization of the model (q4_K_M)",
)
MEMORY_OPTIONS: Final = frozenset(
    {"contextLength", "flashAttention", "kvCacheType", "numParallel", "modelsDir", "gpus"}
)


@dataclass(frozen=True, slots=True)
class _Part:
    kind: str
    file: Path
    size: int


def estimate(options: OllamaOptions) -> Estimate:
    """Return what loading the default model would need. Reads headers only; never raises for a bad model."""
    folder = store.folder(options)
    found = store.find(folder, options.model)
    if found is None:
        return unknown(options.model, f"The model “{options.model}” is not on this machine.")
    try:
        parts = _parts(folder, Path(found.path))
        model = gguf_read(_main(parts, found.id).file)
    except Unreadable as error:
        return unknown(options.model, str(error))
    beside = sum(part.size for part in parts if part.kind in _BESIDE)
    return _estimate(options, model, beside)


def _estimate(options: OllamaOptions, model: GgufModel, beside: int) -> Estimate:
    most = model.context_max or options.contextLength or DEFAULT_CONTEXT
    context = min(options.contextLength or DEFAULT_CONTEXT, most)
    sequences = options.numParallel or 1
    return Estimate(
        model=options.model,
        weights=model.weights + beside,
        weight_bits=model.bits if model.bits > 6 else None,  # noqa: PLR2004
        cache=model.cache,
        cache_format=options.kvCacheType or "f16",
        context=context,
        context_max=model.context_max,
        sequences=sequences,
        in_flight=STEP_TOKENS,
        other=RUNNER_BYTES + _step_bytes(model, context * sequences, options.flashAttention),
        other_least=RUNNER_LEAST,
        gpus=options.gpus,
        spills=True,
        levers=_LEVERS,
        memory_options=MEMORY_OPTIONS,
    )


def _step_bytes(model: GgufModel, tokens: int, flash_attention: bool | None) -> int:
    """Return the bytes of intermediate results: Ollama's formula for ``llama``.

    Flash attention, which is on where it can be, does without the scores of every token with every other.
    """
    embedding, heads, words = model.embedding or 0, model.heads or 0, model.words or 0
    scores = tokens * (1 + heads) if flash_attention is False else tokens
    rows = max(1 + 4 * embedding + scores, embedding + words)
    return 4 * STEP_TOKENS * rows


def _parts(folder: Path, manifest: Path) -> list[_Part]:
    """Return what a manifest says the model is made of."""
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_MANIFEST_MAX))["layers"]
        return [
            _Part(
                str(layer["mediaType"]),
                folder / "blobs" / Path(str(layer["digest"]).replace(":", "-")).name,
                max(0, int(layer["size"])),
            )
            for layer in layers
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(f"The manifest {manifest} cannot be read.") from error


def _main(parts: list[_Part], name: str) -> _Part:
    for part in parts:
        if part.kind == _MODEL:
            return part
    raise Unreadable(f"{name} has no weights on this machine: it may be served from elsewhere.")
