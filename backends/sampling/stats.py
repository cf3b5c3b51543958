"""Numbers that can be added up and still know their mean and their most."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

#: Measures of one GPU, or of one backend.
Measures = dict[str, "Stat"]
#: What one look, or a bucket of many, found: measures by series, ``gpu/<uuid>`` or ``backend/<name>``.
Reading = dict[str, Measures]
#: The same as it may be read from JSON: numbers in the order of ``Stat``.
AnyReading = Mapping[str, Mapping[str, Sequence[float]]]


class Stat(NamedTuple):
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

    def plus(self, other: "Stat") -> "Stat":
        """Return both together."""
        return Stat(
            self.weight + other.weight, self.total + other.total, max(self.most, other.most)
        )


def merged(readings: Iterable[AnyReading]) -> Reading:
    """Return all ``readings`` as one."""
    # Thousands at once, for a month on a page: numbers in lists, and a ``Stat`` only for what comes out.
    found: dict[str, dict[str, list[float]]] = {}
    for reading in readings:
        for series, measures in reading.items():
            into = found.setdefault(series, {})
            for name, (weight, total, most) in measures.items():
                if (sums := into.get(name)) is None:
                    into[name] = [weight, total, most]
                else:
                    sums[0] += weight
                    sums[1] += total
                    sums[2] = max(sums[2], most)
    return from_json(found)


def to_json(reading: Reading) -> dict[str, dict[str, list[float]]]:
    """Return what ``from_json`` reads: ``[weight, total, most]`` by series and measure."""
    return {
        series: {
            name: [_short(stat.weight), _short(stat.total), _short(stat.most)]
            for name, stat in measures.items()
        }
        for series, measures in reading.items()
    }


def from_json(said: AnyReading) -> Reading:
    """Return the reading that ``to_json`` wrote."""
    return {
        series: {name: Stat._make(numbers) for name, numbers in measures.items()}
        for series, measures in said.items()
    }


def _short(value: float) -> float:
    """Return a number with nine digits, without a point where it has no use: it is kept thousands of times."""
    found = float(f"{value:.9g}")
    return int(found) if found.is_integer() else found
