"""An operation's steps as bars on a line, and how long switches took: pictures in numbers. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any, Final

from backends.cards import STEP_WORDS
from backends.words import duration_text

#: Least width of a bar, as a part of the line: what took no time is still seen.
_LEAST: Final = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One step on the line; ``left`` and ``width`` are percent of it."""

    name: str
    word: str
    state: str
    left: float
    width: float
    took: str
    message: str


def bars(operation: Mapping[str, Any], now: datetime) -> list[Bar]:
    """Return the steps of an operation's payload on the line from its request to its end, or to ``now``."""
    begin = datetime.fromisoformat(operation["created_at"])
    end = _moment(operation["finished_at"]) or now
    whole = max((end - begin).total_seconds(), 1e-6)
    return [_bar(step, begin, end, whole) for step in operation["steps"]]


def _bar(step: Mapping[str, Any], begin: datetime, end: datetime, whole: float) -> Bar:
    started = datetime.fromisoformat(step["started_at"])
    finished = _moment(step["finished_at"]) or end
    seconds = max((finished - started).total_seconds(), 0.0)
    left = min(max((started - begin).total_seconds() / whole, 0.0), 1.0 - _LEAST)
    width = min(max(seconds / whole, _LEAST), 1.0 - left)
    return Bar(
        name=step["name"],
        word=STEP_WORDS.get(step["name"], step["name"].capitalize()),
        state=step["state"],
        left=round(left * 100, 2),
        width=round(width * 100, 2),
        took=duration_text(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms",
        message=step["message"],
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """One ended operation that left something serving."""

    id: str
    finished_at: datetime
    seconds: float
    backend: str
    kind: str
    succeeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How long one kind of operation took towards one backend, in seconds."""

    backend: str
    kind: str
    count: int
    failed: int
    median: float | None
    longest: float | None


def summaries(took: Iterable[Took]) -> list[Summary]:
    """Return one line per backend and kind, the most frequent first; times are of those that succeeded."""
    groups: dict[tuple[str, str], list[Took]] = {}
    for one in took:
        groups.setdefault((one.backend, one.kind), []).append(one)
    rows = [_summary(backend, kind, ones) for (backend, kind), ones in groups.items()]
    return sorted(rows, key=lambda row: (-row.count, row.backend, row.kind))


def _summary(backend: str, kind: str, ones: list[Took]) -> Summary:
    good = [one.seconds for one in ones if one.succeeded]
    return Summary(
        backend=backend,
        kind=kind,
        count=len(ones),
        failed=len(ones) - len(good),
        median=median(good) if good else None,
        longest=max(good, default=None),
    )
