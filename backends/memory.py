"""Whether memory that an engine held is back: on the GPUs by NVML, on the machine by ``/proc``.

A process that is gone is not enough: the driver takes GPU memory back a moment later, or never. Who
stops or parks an engine notes what it holds before, and waits here afterwards. Only pids noted before
count, each with its start time, so that memory of others is nobody's leftover.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from backends import gpu, keeper, supervisor
from backends.errors import StopFailed
from backends.gpu import Gpu
from backends.keeper import Process

logger = logging.getLogger(__name__)

#: Seconds that the driver gets to take memory back.
RELEASE_SECONDS: Final = 30.0
#: Bytes that a parked engine may keep on each GPU for each of its processes: vLLM asleep keeps about
#: 1.2 GiB (CUDA context and graphs).
PARKED_GPU_REST: Final = 2 << 30
#: Bytes of the machine that a parked engine may keep without a GPU: its programs without a model.
PARKED_HOST_REST: Final = 1 << 30
#: A parked engine without a GPU keeps less than this share of what it held.
PARKED_HOST_SHARE: Final = 0.5
_LOOK_SECONDS: Final = 0.1
_SETTLED_SECONDS: Final = 0.5
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Part:
    """What one process holds on one GPU."""

    gpu: int
    pid: int
    #: Bytes; None where the driver does not say.
    memory: int | None

    def __str__(self) -> str:
        amount = "" if self.memory is None else f"{self.memory / _GIB:.1f} GiB "
        return f"{self.pid} ({amount}on GPU {self.gpu})"


@dataclass(frozen=True)
class Held:
    """What the processes of an engine hold at one moment."""

    backend: str
    instances: tuple[supervisor.Instance, ...] = ()
    #: Every process of it, those that have ended and may still hold GPU memory included.
    processes: frozenset[Process] = frozenset()
    parts: tuple[Part, ...] = ()
    #: Whether every GPU said who uses it, by pids that mean something here (in a container they may be
    #: those of the machine outside). Without a GPU it is true and there are no parts.
    known: bool = True
    #: Bytes in use on all GPUs, whoever holds them; None where a GPU does not say.
    used: int | None = None
    #: Resident bytes of the living processes; shared pages count once per process.
    host_bytes: int = 0

    @property
    def gpu_bytes(self) -> int | None:
        """Bytes on all GPUs; None where that is not known."""
        amounts = [part.memory for part in self.parts]
        if not self.known or None in amounts:
            return None
        return sum(amount or 0 for amount in amounts)

    @property
    def living(self) -> tuple[int, ...]:
        """Pids of ``processes`` that live now."""
        return tuple(sorted(p.pid for p in self.processes if keeper.is_alive(p)))


def memory_before(*instances: supervisor.Instance) -> Held:
    """Note what ``instances`` of one backend hold, before anything is done to them. Takes about 20 ms.

    Safe to call on instances that have ended: their recorded processes may hold GPU memory yet.
    """
    found: set[Process] = set()
    for inst in instances:
        found |= supervisor.processes(inst)
    backend = instances[0].backend if instances else ""
    return _held(backend, instances, frozenset(found))


def _held(
    backend: str, instances: Iterable[supervisor.Instance], processes: frozenset[Process]
) -> Held:
    cards = gpu.gpus()
    used = [card.memory_used for card in cards]
    return Held(
        backend=backend,
        instances=tuple(instances),
        processes=processes,
        parts=_parts(cards, processes),
        known=all(card.processes_known for card in cards) and not _is_foreign(cards, processes),
        used=None if None in used else sum(amount or 0 for amount in used),
        host_bytes=sum(map(supervisor.rss_of, (p.pid for p in processes if keeper.is_alive(p)))),
    )


def _parts(cards: Iterable[Gpu], processes: frozenset[Process]) -> tuple[Part, ...]:
    """Return what ``processes`` hold; a pid that somebody else has by now is not one of them."""
    ours = {process.pid: process for process in processes}
    return tuple(
        Part(card.index, used.pid, used.memory)
        for card in cards
        for used in card.processes
        if used.pid in ours and used.memory != 0 and not _is_reused(ours[used.pid])
    )


def _is_foreign(cards: Iterable[Gpu], processes: frozenset[Process]) -> bool:
    """Return whether none of the pids that use the GPUs is one of this machine as we see it."""
    listed = {used.pid for card in cards for used in card.processes}
    ours = {process.pid for process in processes}
    return bool(listed) and not any(pid in ours or keeper.identify(pid) for pid in listed)


def _is_reused(process: Process) -> bool:
    return keeper.identify(process.pid) not in {None, process}


def verify_released(
    before: Held,
    *,
    parked: bool = False,
    checkpoint: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
    timeout: float = RELEASE_SECONDS,
) -> Held:
    """Wait until the memory noted in ``before`` is back; return what is still held then.

    Stopped, nothing may be left: no process, no byte on a GPU. Parked, the processes stay, and a small
    rest may: ``PARKED_GPU_REST`` for each process and GPU; without a GPU, ``PARKED_HOST_REST`` or
    ``PARKED_HOST_SHARE`` of what it was. Where NVML does not tell who holds what, that stays unknown
    (``Held.gpu_bytes`` is None) and is logged; then it is waited until the GPUs' memory falls no more.

    Args:
        before: from ``memory_before``.
        parked: whether the engine lives on.
        checkpoint: called every 0.1 s or so; raises to end the waiting.
        say: told what is waited for, in words for a person.
        timeout: longest wait, in seconds.

    Raises:
        StopFailed: it is not back in time; names pids, amounts and GPUs.
    """
    deadline = time.monotonic() + timeout
    settling = _Settling()
    while True:
        now = _now(before, parked=parked)
        left = _left_when_parked(before, now) if parked else _left_when_stopped(now)
        overdue = time.monotonic() >= deadline
        if not left and (overdue or (before.known and now.known) or settling.is_over(now.used)):
            _note_unknown(before, now)
            return now
        if overdue:
            raise StopFailed(_why(now, left, parked=parked, timeout=timeout))
        if checkpoint:
            checkpoint()
        if say and left:
            say(f"waiting for memory to come back: {left}")
        time.sleep(_LOOK_SECONDS)


class _Settling:
    """Notices when the memory in use on the GPUs has stopped falling."""

    def __init__(self) -> None:
        self._lowest: int | None = None
        self._since = time.monotonic()

    def is_over(self, used: int | None) -> bool:
        if used is None:
            return True
        if self._lowest is None or used < self._lowest:
            self._lowest, self._since = used, time.monotonic()
        return time.monotonic() - self._since >= _SETTLED_SECONDS


def _now(before: Held, *, parked: bool) -> Held:
    """Look again; a parked engine may have children that it had not before."""
    processes = before.processes
    if parked:
        processes |= frozenset(p for inst in before.instances for p in supervisor.processes(inst))
    return _held(before.backend, before.instances, processes)


def _left_when_stopped(now: Held) -> str:
    if now.living:
        return f"processes {_listed(now.living)}"
    return _listed(now.parts)


def _left_when_parked(before: Held, now: Held) -> str:
    if before.parts or now.parts:
        # An amount that is not told cannot be said to be too much.
        return _listed([part for part in now.parts if (part.memory or 0) > PARKED_GPU_REST])
    if not before.known or not now.known:
        return ""
    allowed = max(PARKED_HOST_REST, int(before.host_bytes * PARKED_HOST_SHARE))
    if now.host_bytes <= allowed:
        return ""
    return f"{_listed(now.living)} ({now.host_bytes / _GIB:.1f} GiB of the machine's memory)"


def _why(now: Held, left: str, *, parked: bool, timeout: float) -> str:
    after = f"{timeout:.0f} s after it was {'parked' if parked else 'stopped'}"
    if now.living and not parked:
        return f"{now.backend} is not stopped: {left} are still there {after}."
    if parked:
        return f"{now.backend} did not give its memory back: {after}, too much is still held by {left}."
    total = f"{now.gpu_bytes / _GIB:.1f} GiB" if now.gpu_bytes else "an unknown amount"
    return (
        f"{now.backend} has ended, and its GPU memory is not back {after}: {total} still held by pids "
        f"{left}. nvidia-smi shows who holds it; where no process has these pids any more, only a reset "
        "of the GPU or a restart of the machine helps."
    )


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _note_unknown(before: Held, now: Held) -> None:
    if not (before.known and now.known):
        logger.warning("%s: NVML does not say whether GPU memory is back", before.backend)
