"""Phrases for people that more than one room needs."""

from typing import Final

from backends.supervisor import ExitRecord

#: What is written for what nobody knows.
NOTHING: Final = "—"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def exit_in_words(record: ExitRecord) -> str:
    """Return how a process ended: ``killed by signal 9``, ``exit status 1``."""
    if record.signal is not None:
        return f"killed by signal {record.signal}"
    return f"exit status {record.status}" if record.status is not None else "exit status unknown"


def bytes_in_words(count: int) -> str:
    """Return a number of bytes as hubs of models write it: ``4.7 GB``, of 1,000,000,000 bytes each."""
    if count < 1_000_000:  # noqa: PLR2004
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"  # noqa: PLR2004


def bytes_text(count: float | None) -> str:
    """Return a number of bytes for a person: ``2.1 GB`` (1 GB = 2**30 bytes, as GPUs are sold).

    What nobody knows is ``NOTHING``.
    """
    if count is None:
        return NOTHING
    gigabytes = count / 2**30
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{count / 2**20:.0f} MB"


def duration_text(seconds: float) -> str:
    """Return a duration for a person in its two largest units: ``42 s``, ``3 min 5 s``, ``2 h 4 min``."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    for size, unit, below, rest in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            left = whole % size // below
            return f"{whole // size} {unit}" + (f" {left} {rest}" if left else "")
    return f"{whole} s"
