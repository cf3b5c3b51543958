"""What a model takes of memory, as plain numbers: an engine fills them in, the planner compares them.

Cache, per token and layer: keys and values of every head that has its own, ``2 · heads · size`` numbers
(EleutherAI, "Transformer Math 101", 2023; Kwon et al., "PagedAttention", 2023, section 2). Layers with a
sliding window keep no more tokens than that. Multi-head latent attention keeps one compressed vector in
place of both (DeepSeek-V2, 2024, section 2.1).
"""

from dataclasses import dataclass
from typing import Literal

#: Bytes per number of keys and values, by the formats' names in vLLM and in llama.cpp. q8_0 and q4_0 keep
#: blocks of 32 numbers and a 2-byte scale each.
CACHE_NUMBER_BYTES = {
    "auto": 2.0,
    "f32": 4.0,
    "f16": 2.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "fp8": 1.0,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """Numbers a model keeps of a conversation: keys and values."""

    #: Per token, in all layers that keep the whole conversation.
    per_token: int
    #: Per token, and the tokens kept at most: of layers with a sliding window.
    windows: tuple[tuple[int, int], ...] = ()
    #: Layers that keep any.
    layers: int = 1
    #: Heads that tensor parallelism can divide it by; None where every GPU keeps all of it.
    heads: int | None = None

    def numbers(self, tokens: int, in_flight: int = 0) -> int:
        """Return the numbers kept of ``tokens``; windows also hold the tokens of one step, ``in_flight``."""
        kept = sum(each * min(tokens, window + in_flight) for each, window in self.windows)
        return self.per_token * tokens + kept

    def part(self, tensor_parallel: int) -> float:
        """Return the share one of so many GPUs keeps; with more GPUs than heads, heads are repeated."""
        if self.heads is None:
            return 1.0
        return max(1, -(-self.heads // tensor_parallel)) / self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Levers:
    """Names of the engine's options that change what is needed; empty where it has none."""

    context: str = ""
    #: Format of the cache, and the value that makes it smaller.
    cache_format: tuple[str, str] = ("", "")
    #: GiB set aside for the cache.
    cache_gib: str = ""
    tensor_parallel: str = ""
    share: str = ""
    #: GiB of weights kept in the machine's memory.
    offload: str = ""
    #: What to look for instead of this model, for a person.
    smaller_weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What an engine would need for its options, from the model's own files. Bytes, of the whole model."""

    model: str
    #: Why nothing is known, in a sentence; then the numbers mean nothing.
    reason: str = ""
    #: ``auto``: GPUs where the machine has any.
    device: Literal["gpu", "cpu", "auto"] = "auto"

    weights: int = 0
    #: The largest table of words in them: it is not divided among the stages of a pipeline.
    embedding: int = 0
    #: Bits per weight, of most of them; None where they are packed in a way that cannot be made smaller.
    weight_bits: float | None = None

    #: None: how much it keeps per token is not known.
    cache: Cache | None = None
    cache_format: str = "f16"
    #: Longest conversation, in tokens, and what the model can do.
    context: int = 0
    context_max: int | None = None
    #: The engine shortens conversations to what fits, down to so many tokens; None: it does not.
    context_least: int | None = None
    #: Conversations of that length that must fit at once.
    sequences: int = 1
    #: Tokens worked on in one step.
    in_flight: int = 0
    #: Bytes set aside for the cache by each process, whatever a conversation needs.
    reserved: int | None = None

    #: Per GPU, or in all without one: what the engine itself takes, and the least it can take.
    other: int = 0
    other_least: int = 0

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    attention_heads: int | None = None
    #: Numbers of the GPUs it may use; None: the first ones.
    gpus: tuple[int, ...] | None = None
    #: The engine takes this share of each GPU's memory, and must fit into it.
    share: float | None = None
    #: What does not fit on the GPUs is kept, and computed, on the machine.
    spills: bool = False
    #: Weights kept in the machine's memory on purpose, per GPU.
    offloaded: int = 0

    levers: Levers = Levers()
    #: Options that must be the same for a past start to say what this one needs.
    memory_options: frozenset[str] = frozenset()

    @property
    def number_bytes(self) -> float:
        """Bytes per number in the cache."""
        return CACHE_NUMBER_BYTES.get(self.cache_format, 2.0)

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes the cache grows by per token while every layer keeps all of them."""
        if self.cache is None:
            return None
        numbers = self.cache.per_token + sum(each for each, _ in self.cache.windows)
        return round(numbers * self.number_bytes)


def unknown(model: str, reason: str) -> Estimate:
    """Return an estimate that says only why there is none."""
    return Estimate(model=model, reason=reason)
