"""Phrases for people that more than one room needs."""

from backends.supervisor import ExitRecord


def exit_in_words(record: ExitRecord) -> str:
    """Return how a process ended: ``killed by signal 9``, ``exit status 1``."""
    if record.signal is not None:
        return f"killed by signal {record.signal}"
    return f"exit status {record.status}" if record.status is not None else "exit status unknown"
