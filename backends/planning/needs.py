"""What an estimate comes to on one GPU, or on the machine.

Per GPU, with tensor parallelism over T GPUs in each of P stages of a pipeline::

    weights = (weights - table) / (T * P) + table / T          tables of words stand in the first or last stage
    cache   = bytes(context) * sequences * ceil(heads / T) / heads * ceil(layers / P) / layers
    other   = what the engine itself takes, of every GPU

Without a GPU it is the sum: the weights once, the cache that each process sets aside, the engine's own.
"""

import math
from dataclasses import dataclass
from typing import Final

from backends.engines.estimates import Estimate

#: What a past start took is taken a little higher: not every start takes the same.
MARGIN: Final = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PastStart:
    """The most that was seen while the same model ran with the same options; None: not measured."""

    gpu_bytes: int | None = None
    host_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes on one GPU, or on the machine."""

    weights: int
    cache: int
    other: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.other

    def corrected(self, total: int) -> "Need":
        """Return the same with a ``total`` that was measured; what is not weights or cache makes up for it."""
        return Need(weights=self.weights, cache=self.cache, other=total - self.weights - self.cache)


def need(
    estimate: Estimate,
    *,
    on_gpu: bool,
    context: int | None = None,
    tensor_parallel: int | None = None,
    number_bytes: float | None = None,
    weights: int | None = None,
    reserved: int | None = None,
    least: bool = False,
) -> Need:
    """Return what ``estimate`` needs on each of its GPUs, or in all without one.

    Args:
        estimate: of the model and its options.
        on_gpu: whether it runs on GPUs.
        context: tokens, in place of the estimate's; likewise the other numbers.
        tensor_parallel: GPUs in each stage.
        number_bytes: bytes per number in the cache.
        weights: bytes of the whole model.
        reserved: bytes set aside for the cache by each process.
        least: the smallest it can possibly be, by which a start may be refused.
    """
    parts = tensor_parallel or estimate.tensor_parallel
    size = estimate.weights if weights is None else weights
    set_aside = estimate.reserved if reserved is None else reserved
    engine = estimate.other_least if least else estimate.other
    cached = cache_bytes(estimate, context=context, number_bytes=number_bytes, least=least)
    if not on_gpu:
        workers = parts * estimate.pipeline_parallel
        kept = cached if set_aside is None else set_aside * workers
        return Need(weights=size, cache=kept, other=engine)
    part = math.ceil(cached * cache_part(estimate, parts))
    return Need(
        weights=_weights_part(estimate, size, parts),
        cache=part if set_aside is None else set_aside,
        other=engine,
    )


def cache_bytes(
    estimate: Estimate,
    *,
    context: int | None = None,
    number_bytes: float | None = None,
    least: bool = False,
) -> int:
    """Return the bytes of the cache for all conversations that must fit at once; 0 where nobody knows."""
    if estimate.cache is None:
        return 0
    tokens = estimate.context if context is None else context
    if least and context is None and estimate.context_least is not None:
        tokens = min(tokens, estimate.context_least)
    numbers = estimate.cache.numbers(tokens, 0 if least else estimate.in_flight)
    return math.ceil(numbers * (number_bytes or estimate.number_bytes)) * estimate.sequences


def _weights_part(estimate: Estimate, size: int, parts: int) -> int:
    table = min(estimate.embedding, size) if estimate.pipeline_parallel > 1 else 0
    divided = (size - table) / (parts * estimate.pipeline_parallel) + table / parts
    return max(0, math.ceil(divided) - estimate.offloaded)


def cache_part(estimate: Estimate, parts: int) -> float:
    """Return the share of the cache that one process keeps, of ``parts`` in each stage."""
    if estimate.cache is None:
        return 1.0
    layers = estimate.cache.layers
    return estimate.cache.part(parts) * math.ceil(layers / estimate.pipeline_parallel) / layers
