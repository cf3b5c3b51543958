"""The most memory that running backends were seen with, for the observer: seen often, written seldom."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from backends import lifecycle, services
from backends.lifecycle import State
from backends.models import Backend

#: Seconds between two looks at whether a peak is worth writing.
WRITE_SECONDS: Final = 10.0


@dataclass
class _Peak:
    """The most since one start with one model, in bytes."""

    gpu: int | None = None
    host: int | None = None
    next_write: float = 0.0


@dataclass
class Peaks:
    """The observer's memory of peaks. A start and a change of model begin anew."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[tuple[str, str, str], _Peak] = field(default_factory=dict)

    def see(self, row: Backend, cards: Iterable[dict[str, Any]], host_bytes: int | None) -> None:
        """Note what ``row`` holds now.

        Args:
            row: the backend.
            cards: the GPUs as the snapshot has them, with the backend of each process.
            host_bytes: resident memory of its tree; None where it is not known.
        """
        if not lifecycle.is_serving(State(row.state)) or not row.instance_id:
            return
        key = (row.name, row.instance_id, row.model)
        if key not in self._seen:
            self._seen = {old: peak for old, peak in self._seen.items() if old[0] != row.name}
            self._seen[key] = _Peak()
        peak = self._seen[key]
        peak.gpu = _most(peak.gpu, _on_gpus(row.name, cards))
        peak.host = _most(peak.host, host_bytes)
        if self.clock() >= peak.next_write:
            peak.next_write = self.clock() + WRITE_SECONDS
            services.peak_record(backend=row.name, gpu_bytes=peak.gpu, host_bytes=peak.host)


def _on_gpus(backend: str, cards: Iterable[dict[str, Any]]) -> int | None:
    """Return the bytes of ``backend`` on all GPUs; None without GPUs, and where one does not say."""
    found = list(cards)
    if not found or not all(card["processes_known"] for card in found):
        return None
    amounts = [
        process["memory"]
        for card in found
        for process in card["processes"]
        if process["backend"] == backend
    ]
    return None if None in amounts else sum(amounts)


def _most(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)
