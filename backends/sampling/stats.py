"""Numbers that can be added up and still know their mean and their most."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Measures of one GPU, or of one backend.
Measures = dict[str, "Stat"]
#: What one look, or a bucket of many, found: measures by series, ``gpu/<uuid>`` or ``backend/<name>``.
Reading = dict[str, Measures]


@dataclass(frozen=True, slots=True)
class Stat:
    """What one or more looks found of one measure.

    For a gauge each look weighs 1. For a rate ``weight`` is seconds and ``total`` what was added in them; for
    a mean time it is how many were timed, and their seconds.
    """

    weight: float
    total: float
    most: float

    @classmethod
    def of(cls, value: float) -> "Stat":
        """Return one look at a gauge."""
        return cls(1.0, value, value)

    @classmethod
    def rate(cls, added: float, over: float) -> "Stat":
        """Return what ``added`` makes over a weight above 0: tokens over seconds, seconds over requests."""
        return cls(over, added, added / over)

    @property
    def mean(self) -> float:
        """The mean of all looks, by their weight."""
        return self.total / self.weight

    def __add__(self, other: "Stat") -> "Stat":
        """Return both together."""
        return Stat(
            self.weight + other.weight, self.total + other.total, max(self.most, other.most)
        )


def merged(readings: Iterable[Mapping[str, Mapping[str, Stat]]]) -> Reading:
    """Return all ``readings`` as one."""
    found: Reading = {}
    for reading in readings:
        for series, measures in reading.items():
            into = found.setdefault(series, {})
            for name, stat in measures.items():
                into[name] = into[name] + stat if name in into else stat
    return found


def to_json(reading: Mapping[str, Mapping[str, Stat]]) -> dict[str, dict[str, list[float]]]:
    """Return what ``from_json`` reads: ``[weight, total, most]`` by series and measure."""
    return {
        series: {
            name: [_short(stat.weight), _short(stat.total), _short(stat.most)]
            for name, stat in measures.items()
        }
        for series, measures in reading.items()
    }


def from_json(said: Mapping[str, Mapping[str, Any]]) -> Reading:
    """Return the reading that ``to_json`` wrote."""
    return {
        series: {name: Stat(*numbers) for name, numbers in measures.items()}
        for series, measures in said.items()
    }


def _short(value: float) -> float:
    """Return a number with nine digits, without a point where it has no use: it is kept thousands of times."""
    found = float(f"{value:.9g}")
    return int(found) if found.is_integer() else found
