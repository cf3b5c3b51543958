"""What a plan is made from besides the model: memory of the machine, and what past starts took."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
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


def machine_seen(snapshot: Mapping[str, Any], alive: Collection[str]) -> Machine | None:
    """Return the machine as the observer last saw it; None where it has not.

    Args:
        snapshot: of its node.
        alive: backends that run on it, ours or attached.
    """
    memory = snapshot.get("memory")
    if not memory:
        return None
    seen = snapshot.get("backends", {})
    held = {name: facts["memory"] for name, facts in seen.items() if facts.get("memory")}
    return _machine([_gpu_seen(card) for card in snapshot.get("gpus", [])], memory, held, alive)


def _gpu_seen(card: Mapping[str, Any]) -> Gpu:
    holders = [(process.get("backend"), process.get("memory")) for process in card["processes"]]
    return Gpu(
        index=int(card["index"]),
        name=card.get("name") or "",
        total=card.get("memory_total"),
        used=card.get("memory_used"),
        held=_held(holders),
    )


def machine_now(
    trees: Mapping[str, tuple[int, ...]], resident: Mapping[str, int], alive: Collection[str]
) -> Machine:
    """Return this machine as it is now.

    Args:
        trees: pids of each backend that was started here.
        resident: bytes of the machine's memory that each holds.
        alive: backends that run on it, ours or attached.
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
    return _machine(gpus, memory_now(), resident, alive)


def _held(holders: Iterable[tuple[str | None, int | None]]) -> dict[str, int | None]:
    """Return the sum of what each backend's processes hold; None where one holds an amount nobody knows."""
    found: dict[str, int | None] = {}
    for name, memory in holders:
        if name is not None:
            before = found.get(name, 0)
            found[name] = None if before is None or memory is None else before + memory
    return found


def _machine(
    gpus: list[Gpu],
    memory: "MemoryPayload | Mapping[str, Any]",
    held: Mapping[str, int],
    alive: Collection[str],
) -> Machine:
    """Return the machine; of a backend that runs and is seen nowhere, nobody knows what it holds.

    That is one attached whose processes are not ours to see, or, in a container, one whose pids the
    driver gives as they are outside.
    """
    unseen = [name for name in alive if not any(name in card.held for card in gpus)]
    return Machine(
        gpus=tuple(
            replace(card, held={**card.held, **dict.fromkeys(unseen, None)}) for card in gpus
        ),
        total=memory["total"],
        available=memory["available"],
        swap_free=memory["swap_free"],
        held={**dict.fromkeys(alive, None), **held},
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
