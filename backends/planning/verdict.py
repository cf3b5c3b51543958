"""From needs and memory to a verdict: one judge for each way in which engines use memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backends.engines.estimates import Estimate
from backends.planning import advice
from backends.planning.machine import Gpu, Machine
from backends.planning.needs import MARGIN, Need, PastStart, cache_bytes, cache_part, need
from backends.planning.plan import GpuPart, Plan, Verdict, gib, names
from backends.planning.question import Question

#: Part of what an engine asks of a GPU that must be there for sure: NVML counts a little more memory than
#: CUDA gives out.
_SURE: Final = 0.97


def plan(
    *,
    backend: str,
    title: str,
    estimate: Estimate | None,
    machine: Machine,
    leaving: Sequence[str] = (),
    past: PastStart | None = None,
    expected_seconds: float | None = None,
) -> Plan:
    """Return whether what ``estimate`` says fits into ``machine``.

    Args:
        backend: the backend to start.
        title: its engine's name for people.
        estimate: None where the engine cannot say.
        machine: memory, and who holds it.
        leaving: backends that give theirs back first: the one a switch stops, or itself.
        past: what the same took before; it is believed more than the estimate.
        expected_seconds: passed on.
    """
    if estimate is None or estimate.reason:
        why = estimate.reason if estimate else f"{title} does not say what its models need."
        model = estimate.model if estimate else ""
        found = Plan(backend=backend, model=model, verdict=Verdict.UNKNOWN, because=why)
    else:
        question = Question(
            backend=backend,
            title=title,
            estimate=estimate,
            machine=machine,
            leaving=tuple(dict.fromkeys(leaving)),
            past=past,
        )
        found = _judge(question)
    return replace(found, expected_seconds=expected_seconds)


def _judge(question: Question) -> Plan:
    estimate, machine = question.estimate, question.machine
    if estimate.device == "cpu" or (estimate.device == "auto" and not machine.gpus):
        return _on_host(question)
    gpus = _chosen(estimate, machine)
    wanted = 1 if estimate.spills else estimate.tensor_parallel * estimate.pipeline_parallel
    if len(gpus) < wanted:
        return _unknown(question, f"It needs {wanted} GPUs, and {len(gpus)} can be seen.")
    blind = [gpu for gpu in gpus if gpu.free is None]
    if blind:
        return _unknown(
            question, f"The driver does not say how much memory GPU {blind[0].index} has free."
        )
    return _spilling(question, gpus) if estimate.spills else _on_gpus(question, gpus)


def _chosen(estimate: Estimate, machine: Machine) -> tuple[Gpu, ...]:
    """Return the GPUs it would run on."""
    allowed = machine.gpus
    if estimate.gpus is not None:
        allowed = tuple(gpu for gpu in machine.gpus if gpu.index in estimate.gpus)
    if estimate.spills:
        return allowed
    return allowed[: estimate.tensor_parallel * estimate.pipeline_parallel]


def _unknown(question: Question, why: str) -> Plan:
    """Return what is known, without a verdict."""
    parts = need(question.estimate, on_gpu=question.estimate.device != "cpu")
    return _plan(question, Verdict.UNKNOWN, why, parts, parts.total)


def _plan(question: Question, verdict: Verdict, because: str, parts: Need, needed: int) -> Plan:
    """Return the plan with what every judge knows."""
    estimate = question.estimate
    known = estimate.cache is not None or estimate.reserved is not None
    return Plan(
        backend=question.backend,
        model=estimate.model,
        verdict=verdict,
        because=because,
        releases=question.leaving_others if verdict == Verdict.FITS_AFTER_RELEASE else (),
        weights=parts.weights,
        kv_cache=parts.cache if known else None,
        other=parts.other,
        needed=needed,
        kv_bytes_per_token=estimate.cache_bytes_per_token,
        kv_format=estimate.cache_format,
        context_length=estimate.context or None,
    )


def _words(parts: Need, estimate: Estimate) -> str:
    """Return what the need is made of."""
    cached = f"cache {gib(parts.cache)} for {estimate.context} tokens"
    if estimate.sequences > 1:
        cached += f", {estimate.sequences} at once"
    if estimate.cache is None and estimate.reserved is None:
        cached = "its cache not known"
    return f"weights {gib(parts.weights)}, {cached}, other {gib(parts.other)}"


# --- without a GPU ----------------------------------------------------------------------------------


def _on_host(question: Question) -> Plan:
    estimate, machine, past = question.estimate, question.machine, question.past
    parts, least = (need(estimate, on_gpu=False, least=sure) for sure in (False, True))
    measured = past is not None and past.host_bytes is not None
    if past is not None and past.host_bytes is not None:
        parts = parts.corrected(max(round(past.host_bytes * MARGIN), least.weights + least.cache))
        least = least.corrected(min(least.total, parts.total))
    if machine.available is None:
        return _unknown(question, "It is not known how much memory this machine has.")
    freed = machine.freed(question.leaving)
    if freed is None and parts.total > machine.available:
        return _unknown(
            question, f"It is not known what {names(question.leaving_others)} gives back."
        )
    room = machine.available + (freed or 0)
    verdict, certain = _compared(
        parts.total,
        machine.available,
        room,
        least.total,
        room + (machine.swap_free if estimate.spills else 0),
    )
    because = _host_words(question, parts, verdict, freed or 0)
    too_long = _cache_too_small(question)
    if too_long and verdict != Verdict.DOES_NOT_FIT:
        verdict, certain, because = Verdict.DOES_NOT_FIT, True, too_long
    return replace(
        _plan(question, verdict, because, parts, parts.total),
        certain=certain,
        memory="host",
        free=machine.available,
        freed=freed,
        measured=measured,
        context_fits=advice.longest_on_host(estimate, room),
        suggestions=advice.on_host(question, room) if verdict == Verdict.DOES_NOT_FIT else (),
    )


def _compared(
    total: int, free: int, room: int, least: int, room_at_most: int
) -> tuple[Verdict, bool]:
    """Return the verdict, and whether one of not fitting is certain."""
    if total <= free:
        return Verdict.FITS, False
    if total <= room:
        return Verdict.FITS_AFTER_RELEASE, False
    return Verdict.DOES_NOT_FIT, least > room_at_most


def _host_words(question: Question, parts: Need, verdict: Verdict, freed: int) -> str:
    available = gib(question.machine.available)
    begun = f"{question.estimate.model} needs {gib(parts.total)} of memory ({_words(parts, question.estimate)})"
    if verdict == Verdict.FITS:
        return f"{begun}, and {available} is available."
    after = f" and {names(question.leaving_others)} gives back {gib(freed)}" if freed else ""
    if verdict == Verdict.FITS_AFTER_RELEASE:
        return f"{begun}: {available} is available{after}."
    return f"{begun}, and only {available} is available{after}."


def _cache_too_small(question: Question) -> str:
    """Say that the cache set aside cannot hold one conversation, which the engine refuses to start with."""
    estimate = question.estimate
    if estimate.reserved is None or estimate.cache is None or _was_seen(question):
        return ""
    part = cache_part(estimate, estimate.tensor_parallel)
    needed = cache_bytes(estimate, least=True) * part
    if needed <= estimate.reserved:
        return ""
    return (
        f"One conversation of {estimate.context} tokens needs {gib(round(needed))} of cache, and "
        f"{gib(estimate.reserved)} is set aside for it."
    )


def _was_seen(question: Question) -> bool:
    """Return whether the same ran before, which no estimate gainsays."""
    past = question.past
    return past is not None and (past.host_bytes, past.gpu_bytes) != (None, None)


# --- on GPUs, with a fixed share of each ------------------------------------------------------------


def _on_gpus(question: Question, gpus: tuple[Gpu, ...]) -> Plan:
    """Judge an engine that takes a share of each GPU: that must be free, and what it needs must fit in it."""
    estimate, past = question.estimate, question.past
    parts = need(estimate, on_gpu=True)
    least = need(estimate, on_gpu=True, least=True)
    proved = past is not None and past.gpu_bytes is not None
    rows = tuple(_part(question, gpu, parts.total) for gpu in gpus)
    inner_sure = any(least.total > row.takes for row in rows) and not proved
    inner = inner_sure or (any(parts.total > row.takes for row in rows) and not proved)
    short = [row for row in rows if row.freed is not None and _room(row) < row.takes]
    sure_short = [
        row for row in short if _room(row) < _takes(estimate, row.total or 0, least.total) * _SURE
    ]
    blind = [row for row in rows if row.freed is None and (row.free or 0) < row.takes]
    whole = parts.total * len(gpus)
    if not inner and blind:
        index = blind[0].index
        return _unknown(
            question, f"The driver does not say how much memory of GPU {index} would be given back."
        )
    if inner:
        verdict, certain, because = (
            Verdict.DOES_NOT_FIT,
            inner_sure,
            _inner_words(question, parts, rows),
        )
    elif short:
        verdict, certain = Verdict.DOES_NOT_FIT, bool(sure_short)
        because = _short_words(question, short[0])
    elif any((row.free or 0) < row.takes for row in rows):
        verdict, certain = Verdict.FITS_AFTER_RELEASE, False
        because = _gpu_words(question, parts, rows, released=True)
    else:
        verdict, certain = Verdict.FITS, False
        because = _gpu_words(question, parts, rows, released=False)
    too_long = _cache_too_small(question)
    if too_long and verdict != Verdict.DOES_NOT_FIT:
        verdict, certain, because = Verdict.DOES_NOT_FIT, True, too_long
    room = min(min(row.takes, _room(row)) for row in rows)
    return replace(
        _plan(question, verdict, because, parts, whole),
        certain=certain,
        memory="gpu",
        measured=proved,
        gpus=rows,
        context_fits=advice.longest_on_gpu(estimate, room),
        suggestions=advice.on_gpus(question, gpus, rows) if verdict == Verdict.DOES_NOT_FIT else (),
    )


def _part(question: Question, gpu: Gpu, needs: int) -> GpuPart:
    return GpuPart(
        index=gpu.index,
        name=gpu.name,
        total=gpu.total,
        free=gpu.free,
        freed=gpu.freed(question.leaving),
        takes=_takes(question.estimate, gpu.total or 0, needs),
        needs=needs,
    )


def _takes(estimate: Estimate, total: int, needs: int) -> int:
    """Return what an engine takes of a GPU with ``total`` bytes.

    One with a share takes that, however little it needs. With a cache of a size that was said it takes what
    it needs; vLLM wants its share to be free at its start all the same.
    """
    share = needs if estimate.share is None else round(estimate.share * total)
    return share if estimate.reserved is None else max(share, needs)


def _room(row: GpuPart) -> int:
    """Return what can be had of a GPU once those who leave are gone, as far as is known."""
    return (row.free or 0) + (row.freed or 0)


def _gpu_words(
    question: Question, parts: Need, rows: tuple[GpuPart, ...], *, released: bool
) -> str:
    row = min(rows, key=_room)
    where = f"each of {len(rows)} GPUs" if len(rows) > 1 else f"GPU {row.index}"
    said = (
        f"{question.estimate.model} needs {gib(parts.total)} of {where} "
        f"({_words(parts, question.estimate)}), {question.title} takes {gib(row.takes)} of it, and "
        f"{gib(row.free)} is free"
    )
    if not released:
        return f"{said}."
    freed = sum(each.freed or 0 for each in rows)
    return f"{said}; {names(question.leaving_others)} gives back {gib(freed)}."


def _inner_words(question: Question, parts: Need, rows: tuple[GpuPart, ...]) -> str:
    row = min(rows, key=lambda each: each.takes)
    share = question.estimate.share
    taken = f"{share:.0%} of {gib(row.total)}" if share is not None else gib(row.takes)
    each = "each GPU" if len(rows) > 1 else f"GPU {row.index}"
    return (
        f"{question.estimate.model} needs {gib(parts.total)} of {each} "
        f"({_words(parts, question.estimate)}), and {question.title} may take {gib(row.takes)} of it "
        f"({taken})."
    )


def _short_words(question: Question, row: GpuPart) -> str:
    after = (
        f", and {names(question.leaving_others)} gives back {gib(row.freed)}" if row.freed else ""
    )
    others = tuple(name for name in question.machine.holders if name not in question.leaving)
    whose = f" {names(others)} holds memory there." if others else ""
    return (
        f"{question.title} takes {gib(row.takes)} of GPU {row.index} at its start, and only {gib(row.free)} of "
        f"{gib(row.total)} is free{after}.{whose}"
    )


# --- on GPUs, and on the machine what is left -------------------------------------------------------


def _spilling(question: Question, gpus: tuple[Gpu, ...]) -> Plan:
    """Judge an engine that puts on the GPUs what fits there, and keeps the rest on the machine."""
    estimate, machine, past = question.estimate, question.machine, question.past
    parts = need(estimate, on_gpu=True)
    least = need(estimate, on_gpu=True, least=True)
    measured = past is not None and past.gpu_bytes is not None
    if past is not None and past.gpu_bytes is not None:
        parts = parts.corrected(round(max(past.gpu_bytes, parts.weights + parts.cache) * MARGIN))
    free = sum(gpu.free or 0 for gpu in gpus)
    amounts = [gpu.freed(question.leaving) for gpu in gpus]
    freed = sum(amount or 0 for amount in amounts)
    blind = machine.available is None or None in (*amounts, machine.freed(question.leaving))
    rows = tuple(_part(question, gpu, 0) for gpu in gpus)
    host = (machine.available or 0) + (machine.freed(question.leaving) or 0)
    spilled = 0
    if parts.total <= free:
        verdict, because = Verdict.FITS, _spill_words(question, parts, free, "")
    elif parts.total <= free + freed:
        gives = f"; {names(question.leaving_others)} gives back {gib(freed)}"
        verdict, because = Verdict.FITS_AFTER_RELEASE, _spill_words(question, parts, free, gives)
    elif parts.total <= free + freed + host or blind:
        spilled = parts.total - free - freed
        rest = f"; {gib(spilled)} of it stays in the machine's memory, and answers come slowly"
        verdict = Verdict.FITS_AFTER_RELEASE if freed else Verdict.FITS
        because = _spill_words(question, parts, free, rest)
    else:
        rest = f", and {gib(host)} of the machine's memory is available"
        verdict, because = Verdict.DOES_NOT_FIT, _spill_words(question, parts, free, rest)
    return replace(
        _plan(question, verdict, because, parts, parts.total),
        certain=verdict == Verdict.DOES_NOT_FIT
        and least.total > free + freed + host + machine.swap_free,
        memory="gpu",
        free=machine.available,
        freed=freed,
        spilled=spilled,
        measured=measured,
        gpus=rows,
        context_fits=advice.longest_on_gpu(estimate, free + freed),
        suggestions=advice.spilling(question, free + freed)
        if spilled or verdict == Verdict.DOES_NOT_FIT
        else (),
    )


def _spill_words(question: Question, parts: Need, free: int, rest: str) -> str:
    return (
        f"{question.estimate.model} needs {gib(parts.total)} ({_words(parts, question.estimate)}), and "
        f"{gib(free)} of GPU memory is free{rest}."
    )
