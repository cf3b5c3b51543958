"""What the charts page shows: which measures, in which units, and the same in numbers. Pure.

The page's script gets these tables as JSON, so a title or a unit is written once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from backends.payloads import SampleSeries, SamplesPayload

NOTHING: Final = "—"
GIB: Final = 2**30
#: What has more than three digits before its point.
_THREE_DIGITS: Final = 999.5


@dataclass(frozen=True, slots=True)
class Range:
    """A time that can be chosen."""

    key: str
    label: str
    #: As in "in the last hour".
    words: str
    seconds: int


RANGES: Final = (
    Range("15m", "15 min", "15 minutes", 900),
    Range("1h", "1 h", "hour", 3600),
    Range("24h", "24 h", "24 hours", 86_400),
    Range("7d", "7 d", "7 days", 7 * 86_400),
    Range("30d", "30 d", "30 days", 30 * 86_400),
)
USUAL: Final = RANGES[1]


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of every series of a kind."""

    kind: str
    measure: str
    #: What tells it from other lines of the same chart.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart."""

    key: str
    group: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    #: What a value is multiplied with to be in ``unit``.
    scale: float = 1.0
    #: Where the axis ends, in ``unit``; or the measure that says so. Else it follows the values.
    top: float | None = None
    top_measure: str = ""
    #: Whether values are counts.
    whole: bool = False


GROUPS: Final = {"gpu": "GPUs", "engine": "Engines"}
CHARTS: Final = (
    Chart("gpu-memory", "gpu", "Memory", "GB", (Line("gpu", "memory_used"),), 1 / GIB,
          top_measure="memory_total"),
    Chart("gpu-utilization", "gpu", "Utilization", "%", (Line("gpu", "utilization"),), top=100),
    Chart("gpu-power", "gpu", "Power", "W", (Line("gpu", "power"),), top_measure="power_limit"),
    Chart("gpu-temperature", "gpu", "Temperature", "°C", (Line("gpu", "temperature"),), top=100),
    Chart("tokens", "engine", "Generated", "tokens/s", (Line("backend", "tokens_per_second"),)),
    Chart("prompt-tokens", "engine", "Prompts read", "tokens/s",
          (Line("backend", "prompt_tokens_per_second"),)),
    Chart("running", "engine", "Requests running", "", (Line("backend", "requests_running"),),
          whole=True),
    Chart("waiting", "engine", "Requests waiting", "",
          (Line("backend", "requests_waiting"), Line("site", "requests_held")), whole=True),
    Chart("first-token", "engine", "Time to first token", "s",
          (Line("backend", "ttft_seconds"), Line("backend", "engine_ttft_seconds", "in the engine"))),
    Chart("kv-cache", "engine", "KV cache in use", "%", (Line("backend", "kv_cache_usage"),), 100,
          top=100),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a chart in numbers, over the time shown."""

    title: str
    latest: str
    mean: str
    highest: str


@dataclass(frozen=True, slots=True)
class Numbers:
    """One chart in numbers."""

    chart: Chart
    rows: list[Row]


def range_of(key: str) -> Range:
    """Return the range called ``key``; the usual one where there is none."""
    return next((one for one in RANGES if one.key == key), USUAL)


def tables() -> dict[str, Any]:
    """Return what the page's script needs of this module."""
    return {
        "charts": [asdict(chart) for chart in CHARTS],
        "ranges": {one.key: asdict(one) for one in RANGES},
    }


def numbers(payload: SamplesPayload) -> list[Numbers]:
    """Return every chart in numbers, those without a value left out."""
    found = [Numbers(chart, list(_rows(chart, payload["series"]))) for chart in CHARTS]
    return [one for one in found if one.rows]


def _rows(chart: Chart, series: Iterable[SampleSeries]) -> Iterator[Row]:
    listed = list(series)
    for line in chart.lines:
        for one in listed:
            values = one["measures"].get(line.measure)
            if one["kind"] == line.kind and values is not None:
                yield _row(chart, title_of(line, one), values)


def title_of(line: Line, series: Mapping[str, Any]) -> str:
    """Return what a line is called."""
    return f"{series['title']}, {line.note}" if line.note else str(series["title"])


def _row(chart: Chart, title: str, values: list[float | None]) -> Row:
    known = [value for value in values if value is not None]
    # The newest point has just begun and may be empty still.
    latest = next((value for value in reversed(values[-2:]) if value is not None), None)
    return Row(
        title,
        number_text(latest, chart),
        number_text(sum(known) / len(known), chart),
        number_text(max(known), chart),
    )


def number_text(value: float | None, chart: Chart) -> str:
    """Return a value with about three digits and its unit."""
    if value is None:
        return NOTHING
    scaled = round(value * chart.scale, 3)
    text = f"{scaled:.0f}" if abs(scaled) >= _THREE_DIGITS else f"{scaled:.3g}"
    return f"{text} {chart.unit}".rstrip()
