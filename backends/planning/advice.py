"""What would make it fit, worked out and not guessed: every suggestion was put to the same comparison."""

import math
from collections.abc import Callable, Iterator
from typing import Final

from backends.engines.estimates import CACHE_NUMBER_BYTES, Estimate
from backends.planning.machine import Gpu
from backends.planning.needs import cache_bytes, cache_part, need
from backends.planning.plan import GpuPart, Suggestion, gib, names
from backends.planning.question import Question

_GIB: Final = 2**30
#: A shorter conversation than this is of no use to anybody.
CONTEXT_LEAST: Final = 512
#: Contexts are suggested in steps of this many tokens.
_CONTEXT_STEP: Final = 256
#: Bits per weight of a 4-bit build, scales and tables of words included.
_FOUR_BITS: Final = 4.9
#: Most of a GPU that an engine can take: the driver and the display need some.
_SHARE_MOST: Final = 0.95


# --- how long a conversation could be ---------------------------------------------------------------


def longest_on_gpu(estimate: Estimate, room: int) -> int | None:
    """Return the longest context, in tokens, whose need is within ``room`` bytes per GPU; 0 if none is."""
    if estimate.cache is None:
        return None
    if estimate.reserved is not None:
        part, most = cache_part(estimate, estimate.tensor_parallel), estimate.reserved
        return _longest(estimate, lambda n: cache_bytes(estimate, context=n) * part <= most)
    return _longest(estimate, lambda n: need(estimate, on_gpu=True, context=n).total <= room)


def longest_on_host(estimate: Estimate, room: int) -> int | None:
    """Return the longest context within ``room`` bytes of the machine, or within the cache set aside."""
    if estimate.cache is None:
        return None
    if estimate.reserved is None:
        return _longest(estimate, lambda n: need(estimate, on_gpu=False, context=n).total <= room)
    part = cache_part(estimate, estimate.tensor_parallel)
    most = estimate.reserved
    if need(estimate, on_gpu=False).total > room:
        most = _reserve_gib(estimate, room) * _GIB
    return _longest(estimate, lambda n: cache_bytes(estimate, context=n) * part <= most)


def _longest(estimate: Estimate, fits: Callable[[int], bool]) -> int:
    """Return the largest context that fits, at most the model's own."""
    low, high = 0, estimate.context_max or max(estimate.context, 1)
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low - low % _CONTEXT_STEP if low >= _CONTEXT_STEP else 0


def _reserve_gib(estimate: Estimate, room: int) -> int:
    """Return the whole GiB each process could set aside for the cache; 0 if there is none."""
    bare = need(estimate, on_gpu=False, reserved=0).total
    workers = estimate.tensor_parallel * estimate.pipeline_parallel
    return max(0, (room - bare) // (_GIB * workers))


# --- without a GPU ----------------------------------------------------------------------------------


def on_host(question: Question, room: int) -> tuple[Suggestion, ...]:
    """Return what would make it fit into ``room`` bytes of the machine's memory."""
    return tuple(_on_host(question, room))


def _on_host(question: Question, room: int) -> Iterator[Suggestion]:
    estimate = question.estimate
    if estimate.reserved is None:
        yield from _shorter(estimate, longest_on_host(estimate, room))
        yield from _smaller_cache(
            estimate,
            lambda each: need(estimate, on_gpu=False, number_bytes=each).total <= room,
        )
    else:
        yield from _other_reserve(estimate, room)
    yield from _smaller_weights(
        estimate,
        lambda size: (
            need(estimate, on_gpu=False, weights=size, reserved=_least_reserve(estimate)).total
        ),
        room,
    )
    yield from _stop_others(
        question, lambda freed: need(estimate, on_gpu=False).total <= room + freed
    )


def _least_reserve(estimate: Estimate) -> int | None:
    return None if estimate.reserved is None else min(estimate.reserved, _GIB)


def _other_reserve(estimate: Estimate, room: int) -> Iterator[Suggestion]:
    """Suggest another size of the cache that is set aside, and a context that it can hold."""
    possible = _reserve_gib(estimate, room)
    if possible < 1 or not estimate.levers.cache_gib or estimate.cache is None:
        return
    part = cache_part(estimate, estimate.tensor_parallel)
    wanted = max(1, math.ceil(cache_bytes(estimate) * part / _GIB))
    size = min(possible, wanted)
    options: dict[str, int | float | str] = {estimate.levers.cache_gib: size}
    message = f"set {estimate.levers.cache_gib} to {size}"
    if wanted > possible:
        longest = _longest(
            estimate, lambda n: cache_bytes(estimate, context=n) * part <= size * _GIB
        )
        if longest < CONTEXT_LEAST:
            return
        options[estimate.levers.context] = longest
        message += f" and {estimate.levers.context} to {longest}"
    if size * _GIB != estimate.reserved or len(options) > 1:
        yield Suggestion(message=f"{message}.", options=options)


# --- on GPUs ----------------------------------------------------------------------------------------


def on_gpus(
    question: Question, gpus: tuple[Gpu, ...], rows: tuple[GpuPart, ...]
) -> tuple[Suggestion, ...]:
    """Return what would make an engine fit that takes a share of each GPU."""
    return tuple(_on_gpus(question, gpus, rows))


def _on_gpus(
    question: Question, gpus: tuple[Gpu, ...], rows: tuple[GpuPart, ...]
) -> Iterator[Suggestion]:
    estimate = question.estimate
    room = min(min(row.takes, _room(row)) for row in rows)
    share_fits = all(row.takes <= _room(row) for row in rows)
    needed = need(estimate, on_gpu=True).total
    yield from _other_share(estimate, rows, needed)
    if share_fits:
        yield from _shorter(estimate, longest_on_gpu(estimate, room))
        yield from _smaller_cache(
            estimate,
            lambda each: (
                _holds_one(estimate, number_bytes=each)
                and need(estimate, on_gpu=True, number_bytes=each).total <= room
            ),
        )
        yield from _more_gpus(question, gpus)
        yield from _offload(question, needed, room)
        yield from _smaller_weights(
            estimate, lambda size: need(estimate, on_gpu=True, weights=size).total, room
        )
    yield from _stop_others(question, lambda _: _fits_without_others(question, gpus, rows, needed))


def _room(row: GpuPart) -> int:
    return (row.free or 0) + (row.freed or 0)


def _other_share(
    estimate: Estimate, rows: tuple[GpuPart, ...], needed: int
) -> Iterator[Suggestion]:
    """Suggest a share of the GPUs that is there and is enough."""
    if not estimate.levers.share or estimate.share is None:
        return
    possible = min(_SHARE_MOST, *(_room(row) / row.total for row in rows if row.total))
    wanted = max(needed / row.total for row in rows if row.total)
    low, high = math.ceil(wanted * 100) / 100, math.floor(possible * 100) / 100
    if low > high:
        return
    if low <= estimate.share <= high or (estimate.reserved is not None and estimate.share <= high):
        return
    word, value = ("lower", high) if high < estimate.share else ("raise", low)
    yield Suggestion(
        message=f"{word} {estimate.levers.share} to {value:g}.",
        options={estimate.levers.share: value},
    )


def _more_gpus(question: Question, gpus: tuple[Gpu, ...]) -> Iterator[Suggestion]:
    """Suggest the smallest number of GPUs that is enough, of those seen."""
    estimate = question.estimate
    allowed = [
        gpu for gpu in question.machine.gpus if estimate.gpus is None or gpu.index in estimate.gpus
    ]
    heads = estimate.attention_heads or 0
    if not estimate.levers.tensor_parallel or estimate.pipeline_parallel > 1 or not heads:
        return
    for count in range(len(gpus) + 1, len(allowed) + 1):
        rooms = [_share_room(question, gpu) for gpu in allowed[:count]]
        if not _holds_one(estimate, tensor_parallel=count):
            continue
        if heads % count == 0 and all(
            need(estimate, on_gpu=True, tensor_parallel=count).total <= room for room in rooms
        ):
            each = need(estimate, on_gpu=True, tensor_parallel=count).total
            yield Suggestion(
                message=f"set {estimate.levers.tensor_parallel} to {count}: {gib(each)} on each of {count} GPUs.",
                options={estimate.levers.tensor_parallel: count},
            )
            return


def _holds_one(
    estimate: Estimate, *, number_bytes: float | None = None, tensor_parallel: int | None = None
) -> bool:
    """Return whether a cache of a size that was said would hold one longest conversation."""
    if estimate.reserved is None:
        return True
    part = cache_part(estimate, tensor_parallel or estimate.tensor_parallel)
    return cache_bytes(estimate, number_bytes=number_bytes) * part <= estimate.reserved


def _share_room(question: Question, gpu: Gpu) -> int:
    """Return what the engine would have of a GPU; nothing where its share is not free."""
    taken = round((question.estimate.share or 1.0) * (gpu.total or 0))
    there = (gpu.free or 0) + (gpu.freed(question.leaving) or 0)
    return taken if there >= taken else 0


def _offload(question: Question, needed: int, room: int) -> Iterator[Suggestion]:
    """Suggest to keep what is too much in the machine's memory, where that has it."""
    estimate = question.estimate
    lever = estimate.levers.offload
    amount = math.ceil((needed - room) / _GIB)
    count = estimate.tensor_parallel * estimate.pipeline_parallel
    there = question.machine.available or 0
    if not lever or not 0 < amount * _GIB < need(estimate, on_gpu=True).weights:
        return
    if amount * count * _GIB <= there * 0.8:
        value = amount + math.ceil(estimate.offloaded / _GIB)
        yield Suggestion(
            message=f"set {lever} to {value}: so much of the weights stays in the machine's memory, and answers "
            "come more slowly.",
            options={lever: value},
        )


def _fits_without_others(
    question: Question, gpus: tuple[Gpu, ...], rows: tuple[GpuPart, ...], needed: int
) -> bool:
    everybody = question.machine.holders
    for gpu, row in zip(gpus, rows, strict=True):
        freed = gpu.freed(everybody)
        if freed is None or (gpu.free or 0) + freed < row.takes or needed > row.takes:
            return False
    return True


# --- on GPUs, and on the machine what is left -------------------------------------------------------


def spilling(question: Question, room: int) -> tuple[Suggestion, ...]:
    """Return what would make all of it fit into ``room`` bytes of GPU memory."""
    return tuple(_spilling(question, room))


def _spilling(question: Question, room: int) -> Iterator[Suggestion]:
    estimate = question.estimate
    needed = need(estimate, on_gpu=True).total
    yield from _shorter(estimate, longest_on_gpu(estimate, room))
    yield from _smaller_cache(
        estimate, lambda each: need(estimate, on_gpu=True, number_bytes=each).total <= room
    )
    yield from _smaller_weights(
        estimate, lambda size: need(estimate, on_gpu=True, weights=size).total, room
    )

    def fits(_: int) -> bool:
        everybody = question.machine.holders
        amounts = [(gpu.free or 0) + (gpu.freed(everybody) or 0) for gpu in question.machine.gpus]
        return needed <= sum(amounts)

    yield from _stop_others(question, fits)


# --- the same for all -------------------------------------------------------------------------------


def _shorter(estimate: Estimate, longest: int | None) -> Iterator[Suggestion]:
    """Suggest a shorter conversation."""
    if longest is None or not CONTEXT_LEAST <= longest < estimate.context:
        return
    lever = estimate.levers.context
    if lever:
        yield Suggestion(
            message=f"set {lever} to {longest}, the longest conversation that fits.",
            options={lever: longest},
        )


def _smaller_cache(estimate: Estimate, fits: Callable[[float], bool]) -> Iterator[Suggestion]:
    """Suggest a smaller format of the cache."""
    lever, value = estimate.levers.cache_format
    each = CACHE_NUMBER_BYTES.get(value, estimate.number_bytes)
    if lever and estimate.cache is not None and each < estimate.number_bytes and fits(each):
        yield Suggestion(
            message=f"set {lever} to {value}: the cache takes {each / estimate.number_bytes:.0%} of it.",
            options={lever: value},
        )


def _smaller_weights(
    estimate: Estimate, total: Callable[[int], int], room: int
) -> Iterator[Suggestion]:
    """Suggest weights packed into 4 bits, which is another model to download."""
    bits, words = estimate.weight_bits, estimate.levers.smaller_weights
    if bits is None or not words:
        return
    size = round(estimate.weights * _FOUR_BITS / bits)
    if total(size) <= room < total(estimate.weights):
        yield Suggestion(message=f"serve {words}: its weights take about {gib(size)}.", options={})


def _stop_others(question: Question, fits: Callable[[int], bool]) -> Iterator[Suggestion]:
    """Suggest to stop what stays running, where that would be enough."""
    held = question.machine.holders
    others = tuple(n for n in held if n not in question.leaving and n != question.backend)
    if others and fits(question.machine.freed(others) or 0):
        yield Suggestion(
            message=f"stop {names(others)} first, or switch: mh backend switch {question.backend}",
            options={},
        )
