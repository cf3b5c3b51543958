"""Read the GPUs of this machine through NVML. Nothing here raises: what cannot be read is None."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

import pynvml
import structlog

log = structlog.get_logger(__name__)

#: Seconds between attempts to reach a driver that is not there or does not answer.
RETRY_INTERVAL: Final = 10.0
#: What the binding raises where the driver has no answer: its own errors, and those of a binding and a
#: driver that do not fit together (functions that are missing, text that cannot be decoded).
_NO_ANSWER: Final = (pynvml.NVMLError, AttributeError, TypeError, ValueError, OSError)

#: NVML's name for the sensor in the GPU's chip.
_CHIP: Final = 0


@dataclass(frozen=True)
class GpuProcess:
    """A process that uses a GPU."""

    pid: int
    #: Bytes on this GPU; None where the driver does not say.
    memory: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU, as it is now; None for what the driver does not say."""

    index: int
    name: str | None
    uuid: str | None
    #: Bytes. ``memory_used`` is what ``nvidia-smi`` shows: without the driver's own reserve.
    memory_total: int | None
    memory_used: int | None
    #: Percent of the last sampling period in which a kernel ran.
    utilization: int | None
    processes: tuple[GpuProcess, ...] = ()
    #: Whether the driver said who uses it; without, ``processes`` is empty and means nothing.
    processes_known: bool = True
    #: Watts drawn, and the most the driver lets it draw. Newer cards give the mean of the last second.
    power: float | None = None
    power_limit: float | None = None
    #: Of the chip, in degrees Celsius.
    temperature: int | None = None


def memory_held(gpus_now: Iterable[Gpu], pids: Collection[int]) -> int | None:
    """Return the bytes ``pids`` hold on all GPUs; None where that is not known.

    Not known is: a process of them holds an amount that the driver does not tell, or a GPU does not
    say who uses it.
    """
    found = list(gpus_now)
    amounts = [p.memory for gpu in found for p in gpu.processes if p.pid in pids]
    if None in amounts or not all(gpu.processes_known for gpu in found):
        return None
    return sum(amount or 0 for amount in amounts)


def gpus() -> list[Gpu]:
    """Return every GPU, in the driver's order; an empty list without GPUs or without a driver."""
    return _READER.read()


class Reader:
    """Keeps NVML initialised between reads, and begins anew when the driver went away."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Use ``clock`` (seconds) to space the attempts."""
        self._clock = clock
        self._lock = threading.Lock()
        #: The process that initialised NVML: a fork cannot use its parent's.
        self._owner: int | None = None
        self._retry_at = float("-inf")
        self._trouble = ""

    def read(self) -> list[Gpu]:
        """Return every GPU; an empty list while the driver cannot be reached."""
        with self._lock:
            if not self._ready():
                return []
            try:
                count = int(pynvml.nvmlDeviceGetCount())
            except _NO_ANSWER as error:
                self._forget(error)
                return []
            found = [_read_gpu(index) for index in range(count)]
            if found and all(gpu.uuid is None and gpu.memory_total is None for gpu in found):
                self._forget(None)  # answers, and knows nothing: lost GPUs, or a replaced driver
            else:
                self._say("")
            return found

    def _ready(self) -> bool:
        if self._owner == os.getpid():
            return True
        if self._clock() < self._retry_at:
            return False
        try:
            pynvml.nvmlInit()
        except _NO_ANSWER as error:
            self._retry_at = self._clock() + RETRY_INTERVAL
            self._say(str(error))
            return False
        self._owner = os.getpid()
        return True

    def _forget(self, error: Exception | None) -> None:
        """Let go of NVML, so that the next read starts it again."""
        self._say(str(error or "no GPU answers"))
        self._owner = None
        self._retry_at = self._clock() + RETRY_INTERVAL
        _asked(pynvml.nvmlShutdown)

    def _say(self, trouble: str) -> None:
        """Log each kind of trouble once, and its end."""
        if trouble == self._trouble:
            return
        if trouble:
            log.info("gpu.unreadable", reason=trouble)
        else:
            log.info("gpu.readable_again")
        self._trouble = trouble


_READER: Final = Reader()


def _asked(question: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
    """Return the driver's answer, or None when it has none."""
    if question is None:
        return None
    try:
        return question(*args, **kwargs)
    except _NO_ANSWER:
        return None


def _read_gpu(index: int) -> Gpu:
    handle = _asked(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index, None, None, None, None, None, processes_known=False)
    memory = _memory(handle)
    processes = _processes(handle)
    utilization = _asked(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index=index,
        name=_text(_asked(pynvml.nvmlDeviceGetName, handle)),
        uuid=_text(_asked(pynvml.nvmlDeviceGetUUID, handle)),
        memory_total=_number(getattr(memory, "total", None)),
        memory_used=_number(getattr(memory, "used", None)),
        utilization=_number(getattr(utilization, "gpu", None)),
        processes=processes or (),
        processes_known=processes is not None,
        power=_watts("nvmlDeviceGetPowerUsage", handle),
        power_limit=_watts("nvmlDeviceGetEnforcedPowerLimit", handle),
        temperature=_temperature(handle),
    )


def _watts(function: str, handle: Any) -> float | None:
    """Return what NVML says in milliwatts; None where a card (or a part of one, MIG) does not measure it."""
    milliwatts = _number(_asked(getattr(pynvml, function, None), handle))
    return None if milliwatts is None else round(milliwatts / 1000, 1)


def _temperature(handle: Any) -> int | None:
    """Ask as drivers of CUDA 13 and later want it; older ones know only the other way."""
    found = _asked(getattr(pynvml, "nvmlDeviceGetTemperatureV", None), handle, _CHIP)
    if found is None:
        found = _asked(getattr(pynvml, "nvmlDeviceGetTemperature", None), handle, _CHIP)
    return _number(found)


def _memory(handle: Any) -> Any:
    """Return the memory without the driver's reserve; with it where an old driver knows no other."""
    version = getattr(pynvml, "nvmlMemory_v2", None)
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle, version=version) if version else None
    return memory or _asked(pynvml.nvmlDeviceGetMemoryInfo, handle)


def _processes(handle: Any) -> tuple[GpuProcess, ...] | None:
    """Return who uses the GPU; None when the driver does not say who computes on it.

    A process that both computes and draws is listed in both, with the same memory; one that is on
    several MIG instances is listed once for each, with its memory there.
    """
    computing = _asked(getattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", None), handle)
    drawing = _asked(getattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", None), handle)
    found = _by_pid(computing or ())
    for pid, memory in _by_pid(drawing or ()).items():
        known = found.get(pid)
        found[pid] = memory if known is None else max(known, memory or 0)
    if computing is None and not found:
        return None
    return tuple(GpuProcess(pid, found[pid]) for pid in sorted(found))


def _by_pid(listed: Iterable[Any]) -> dict[int, int | None]:
    """Add up what each process holds; a part that nobody knows makes the whole unknown."""
    found: dict[int, int | None] = {}
    for process in listed:
        memory = _number(getattr(process, "usedGpuMemory", None))
        before = found.get(process.pid, 0)
        found[process.pid] = None if memory is None or before is None else before + memory
    return found


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value) if value is not None else None


def _number(value: Any) -> int | None:
    """Return a count; None for NVML's "not available", which is the largest unsigned number."""
    return int(value) if isinstance(value, int) and 0 <= value < 1 << 63 else None
