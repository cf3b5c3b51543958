"""Phrases for people that more than one room needs."""

from backends.supervisor import ExitRecord


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
