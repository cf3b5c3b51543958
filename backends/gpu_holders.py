"""Reads about GPU leases: who holds which GPU, and what stands in the way of a start."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from django.conf import settings

from backends import gpu, lifecycle, selectors, supervisor
from backends.lifecycle import State
from backends.models import Backend, GpuLease

#: The lease on the memory of the machine itself: everybody shares it, and the plan says what fits.
HOST: Final = "host"
_BY_NUMBER: Final = "number:"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A GPU that a start needs, and the backend that has it."""

    #: As its lease calls it.
    gpu: str
    holder: Backend
    #: Living processes of a holder that is not running any more.
    pids: tuple[int, ...] = ()


def gpu_names(numbers: Collection[int]) -> tuple[str, ...]:
    """Return what leases call the GPUs with these numbers; ``(HOST,)`` for none.

    A GPU is called by its UUID; where NVML does not tell it, by its number.
    """
    uuids = _uuids()
    return tuple(uuids.get(number) or by_number(number) for number in numbers) or (HOST,)


def by_number(number: int) -> str:
    """Return what leases call a GPU whose UUID nobody tells."""
    return f"{_BY_NUMBER}{number}"


def _uuids() -> dict[int, str]:
    return {card.index: card.uuid for card in gpu.gpus() if card.uuid}


def gpu_in_words(name: str) -> str:
    """Return what people call the GPU of a lease: ``GPU 0``."""
    if name == HOST:
        return "this machine's memory"
    number = next((str(index) for index, uuid in _uuids().items() if uuid == name), name)
    return f"GPU {number.removeprefix(_BY_NUMBER)}"


def gpu_holders(node: str) -> dict[str, list[str]]:
    """Return for each GPU of ``node`` that is taken the names of the backends that hold it."""
    rows = GpuLease.objects.filter(node=node)
    return {lease.gpu: list(lease.holders) for lease in rows if lease.holders}


def gpu_conflicts(
    backend: Backend, names: Collection[str], *, shares: bool, leaving: Collection[str] = ()
) -> list[Conflict]:
    """Return who keeps ``backend`` from the GPUs that leases call ``names``; empty when nobody does.

    The machine's own memory is everybody's: whether it suffices is the plan's to say.

    Args:
        backend: what is to have them.
        names: from ``gpu_names``.
        shares: whether it lets others on its GPUs (option ``shareGpu``).
        leaving: backends that are stopped or parked first.
    """
    uuids = _uuids()
    found = []
    for leased, holders in gpu_holders(backend.node).items():
        if not any(_may_be_same(uuids, leased, name) for name in names):
            continue
        rows = Backend.objects.filter(name__in=set(holders) - {backend.name, *leaving})
        found += [
            Conflict(leased, row, _leftovers(row))
            for row in rows
            if holds(row) and not (shares and shares_gpu(row))
        ]
    return found


def _may_be_same(uuids: dict[int, str], one: str, other: str) -> bool:
    """Return whether two names are of one GPU, or may be: NVML did not always tell its UUID."""
    if HOST in {one, other}:
        return False
    one, other = _by_uuid(uuids, one), _by_uuid(uuids, other)
    if one.startswith(_BY_NUMBER) == other.startswith(_BY_NUMBER):
        return one == other
    known = other if one.startswith(_BY_NUMBER) else one
    return known not in uuids.values()


def _by_uuid(uuids: dict[int, str], name: str) -> str:
    number = name.removeprefix(_BY_NUMBER)
    return name if number == name else uuids.get(int(number), name)


def holds(holder: Backend) -> bool:
    """Return whether a backend that a lease names still has a claim: it lives, and is not parked."""
    state = State(holder.state)
    if state == State.PARKED:
        return False
    return lifecycle.is_alive(state) or bool(_leftovers(holder))


def _leftovers(holder: Backend) -> tuple[int, ...]:
    """Return the processes of a backend that failed to stop."""
    if holder.state != State.FAILED:
        return ()
    found = supervisor.find(settings.MH_HOME, holder.name)
    return tuple(pid for inst in found for pid in supervisor.tree(inst))


def shares_gpu(backend: Backend) -> bool:
    """Return whether ``backend`` lets others on its GPUs."""
    return bool(selectors.options_given(backend).get("shareGpu", False))
