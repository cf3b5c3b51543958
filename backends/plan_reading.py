"""What a plan is made from besides the model: memory of the machine, and what past starts took."""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import psutil

from backends import gpu
from backends.engines.base import Options
from backends.engines.estimates import Estimate
from backends.models import Backend, StartRecord
from backends.planning import Gpu, Machine, PastStart

#: Starts of one backend that are looked through for one with the same options.
_STARTS = 50


class MemoryPayload(TypedDict):
    """The machine's memory in a snapshot. Bytes."""

    total: int
    available: int
    swap_free: int


def memory_now() -> MemoryPayload:
    """Return the memory of this machine, as ``/proc/meminfo`` has it."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return MemoryPayload(
        total=int(memory.total), available=int(memory.available), swap_free=int(swap.free)
    )


def machine_seen(snapshot: Mapping[str, Any]) -> Machine | None:
    """Return the machine as the observer last saw it; None where it has not."""
    memory = snapshot.get("memory")
    if not memory:
        return None
    held = {
        name: int(facts["memory"])
        for name, facts in snapshot.get("backends", {}).items()
        if facts.get("memory")
    }
    return _machine([_gpu_seen(card) for card in snapshot.get("gpus", [])], memory, held)


def _gpu_seen(card: Mapping[str, Any]) -> Gpu:
    holders = [(process.get("backend"), process.get("memory")) for process in card["processes"]]
    return Gpu(
        index=int(card["index"]),
        name=card.get("name") or "",
        total=card.get("memory_total"),
        used=card.get("memory_used"),
        held=_held(holders),
    )


def machine_now(trees: Mapping[str, tuple[int, ...]], resident: Mapping[str, int]) -> Machine:
    """Return this machine as it is now.

    Args:
        trees: pids of each of our backends.
        resident: bytes of the machine's memory that each holds.
    """
    owners = {pid: name for name, pids in trees.items() for pid in pids}
    gpus = [
        Gpu(
            index=card.index,
            name=card.name or "",
            total=card.memory_total,
            used=card.memory_used,
            held=_held((owners.get(p.pid), p.memory) for p in card.processes),
        )
        for card in gpu.gpus()
    ]
    return _machine(gpus, memory_now(), resident)


def _held(holders: Iterable[tuple[str | None, int | None]]) -> dict[str, int | None]:
    """Return the sum of what each backend's processes hold; None where one holds an amount nobody knows."""
    found: dict[str, int | None] = {}
    for name, memory in holders:
        if name is not None:
            before = found.get(name, 0)
            found[name] = None if before is None or memory is None else before + memory
    return found


def _machine(
    gpus: list[Gpu], memory: "MemoryPayload | Mapping[str, Any]", held: Mapping[str, int]
) -> Machine:
    return Machine(
        gpus=tuple(gpus),
        total=memory["total"],
        available=memory["available"],
        swap_free=memory["swap_free"],
        held=dict(held),
    )


def past_start(backend: Backend, estimate: Estimate, options: Options) -> PastStart | None:
    """Return what the newest start of the same model with the same memory options took, or None."""
    starts = StartRecord.objects.filter(backend=backend, model__in=_names(estimate, options))
    now = options.model_dump(mode="json")
    counting = estimate.memory_options | {"model"}
    for start in starts[:_STARTS]:
        measured = start.peak_gpu_bytes is not None or start.peak_host_bytes is not None
        if measured and _is_same(start.options, now, options, counting):
            return PastStart(gpu_bytes=start.peak_gpu_bytes, host_bytes=start.peak_host_bytes)
    return None


def _names(estimate: Estimate, options: Options) -> list[str]:
    """Return the names a start of this model may be recorded under."""
    return [estimate.model, str(getattr(options, "served_name", estimate.model))]


def _is_same(
    then: Mapping[str, Any], now: Mapping[str, Any], options: Options, counting: Iterable[str]
) -> bool:
    """Compare the options that count; what was not said then had its default."""
    given = options.own_names(then)
    fields = type(options).model_fields
    return all(
        given.get(name, fields[name].get_default(call_default_factory=True)) == now.get(name)
        for name in counting
        if name in fields
    )
