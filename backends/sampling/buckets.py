"""Which bucket a moment is in, and readings collected into buckets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backends.sampling.resolution import MINUTES
from backends.sampling.stats import AnyReading, Reading, merged


def bucket_of(at: float, step: int) -> int:
    """Return the begin of the bucket of ``step`` seconds that ``at`` is in, both in seconds since 1970."""
    return int(at // step) * step


def rolled(buckets: Mapping[int, AnyReading], step: int) -> dict[int, Reading]:
    """Return ``buckets`` as buckets of ``step`` seconds, in order of time."""
    groups: dict[int, list[AnyReading]] = {}
    for at in sorted(buckets):
        groups.setdefault(bucket_of(at, step), []).append(buckets[at])
    return {at: merged(readings) for at, readings in groups.items()}


def together(buckets: Iterable[tuple[int, AnyReading]]) -> dict[int, AnyReading]:
    """Return ``buckets`` by their begin; what came in parts is added up."""
    found: dict[int, AnyReading] = {}
    for at, reading in buckets:
        found[at] = merged([found[at], reading]) if at in found else reading
    return found


def followed(
    kept: Mapping[int, AnyReading], fine: Mapping[int, AnyReading], written: float
) -> dict[int, AnyReading]:
    """Return what is kept, with finer buckets from ``written`` on: what has not been added to it yet."""
    newer = [(at, reading) for at, reading in fine.items() if at >= written]
    return together([*kept.items(), *newer])


def preceded(
    minutes: Mapping[int, AnyReading], fine: Mapping[int, AnyReading], *, step: int, begin: float
) -> dict[int, AnyReading]:
    """Return fine buckets, with minutes from before the first of them as if all of each had been alike.

    Args:
        minutes: buckets of a minute.
        fine: buckets of less; ``begin`` where there are none says until when minutes are taken.
        step: seconds between two points of a minute, no more than a minute.
        begin: seconds since 1970.
    """
    first = min(fine, default=begin)
    spread = {
        at: reading
        for minute, reading in minutes.items()
        for at in range(minute, minute + MINUTES.step, step)
        if at < first
    }
    return {**spread, **fine}


@dataclass
class Collector:
    """Collects readings into buckets of ``step`` seconds, and gives each away when the next one begins.

    A clock that is set back begins a bucket that was given away already: whoever keeps buckets has to add to
    what it has, never to replace it.
    """

    step: int
    _at: int | None = None
    _open: Reading = field(default_factory=dict)

    def add(self, at: float, reading: AnyReading) -> tuple[int, Reading] | None:
        """Take a reading made at ``at`` (seconds since 1970); return the bucket that has ended with it."""
        bucket = bucket_of(at, self.step)
        ended = self.close() if bucket != self._at else None
        self._at = bucket
        self._open = merged([self._open, reading])
        return ended

    def close(self) -> tuple[int, Reading] | None:
        """Return the open bucket, and begin anew; None where there is none."""
        at, found = self._at, self._open
        self._at, self._open = None, {}
        return (at, found) if at is not None and found else None
