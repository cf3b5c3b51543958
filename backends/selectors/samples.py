"""Samples of GPUs and engines, at the resolution that a question needs."""

from typing import Any, Final

from django.conf import settings

from backends import flow
from backends.models import SampleBucket
from backends.payloads import SampleSeries, SamplesPayload
from backends.sampling.buckets import bucket_of, followed, preceded, rolled, together
from backends.sampling.looks import SITE, gpu_key
from backends.sampling.resolution import FINE, MINUTES, Reach, Resolution, reach
from backends.sampling.stats import AnyReading, Measures, Reading, Stat
from backends.selectors.rows import backend_engine, backend_list, last_snapshot

#: Statistics that can be asked for.
STATISTICS: Final = ("mean", "max")


def samples_between(
    *, now: float, since: float, until: float, step: int | None = None, statistic: str = "mean"
) -> SamplesPayload:
    """Return every series from ``since`` to ``until``.

    Args:
        now: seconds since 1970, as are the next two.
        since: begin.
        until: end, later than ``since``.
        step: seconds between points, if they are to be further apart than they need to be.
        statistic: ``mean`` of each point's time, or ``max``.
    """
    way = reach(now=now, since=since, until=until, step=step)
    first, last = bucket_of(since, way.step), bucket_of(until, way.step)
    times, titles = range(first, last + 1, way.step), _titles()
    series = [
        _series(node, name, points, titles.get(name), statistic)
        for node in sorted({settings.MH_NODE, *(row.node for row in backend_list())})
        for name, points in _points(node, way, times, now).items()
    ]
    return SamplesPayload(
        now=int(now),
        since=times[0],
        until=times[-1] + way.step,
        step=way.step,
        resolution=way.source.step,
        statistic=statistic,
        times=list(times),
        series=sorted(series, key=lambda one: (one["kind"], one["title"], one["node"])),
    )


def _points(node: str, way: Reach, times: range, now: float) -> dict[str, list[Measures]]:
    """Return what was seen at each of ``times``, by series."""
    buckets = rolled(_buckets(node, way, times, now), way.step)
    points = [buckets.get(at, {}) for at in times]
    names = {name for point in points for name in point}
    return {name: [point.get(name, {}) for point in points] for name in names}


def _series(
    node: str, name: str, points: list[Measures], title: str | None, statistic: str
) -> SampleSeries:
    kind, _, id_ = name.partition("/")
    return SampleSeries(
        node=node,
        kind=kind,
        id=id_,
        title=title or id_,
        measures={
            measure: [_value(point.get(measure), statistic) for point in points]
            for measure in sorted({measure for point in points for measure in point})
        },
    )


def _value(stat: Stat | None, statistic: str) -> float | None:
    """Return a point with six digits: more than a screen has."""
    if stat is None or not stat.weight:
        return None
    return float(f"{stat.most if statistic == 'max' else stat.mean:.6g}")


def sample_values(reading: Reading) -> list[dict[str, Any]]:
    """Return a bucket as a frame has it: the mean of each measure."""
    found = []
    for name in sorted(reading):
        kind, _, id_ = name.partition("/")
        values = {measure: _value(stat, "mean") for measure, stat in reading[name].items()}
        found.append({"kind": kind, "id": id_, "values": values})
    return found


def _titles() -> dict[str, str]:
    """Return what series are called: a GPU that is gone by its UUID."""
    titles = {SITE: "Held by the site"}
    for card in last_snapshot().get("gpus", []):
        titles[gpu_key(card)] = f"GPU {card['index']} · {card['name'] or 'unknown'}"
    for row in backend_list():
        titles[f"backend/{row.name}"] = backend_engine(row).title
    return titles


# --- where it is kept ---------------------------------------------------------------------------


def _buckets(node: str, way: Reach, times: range, now: float) -> dict[int, AnyReading]:
    if way.source == FINE:
        fine = _fine(node, times[0], times[-1] + way.step, now)
        step = min(way.step, MINUTES.step)
        return preceded(_rows(node, MINUTES, times, way.step), fine, step=step, begin=now)
    written = _written(node)
    fine = _fine(node, max(written, times[0]), times[-1] + way.step, now)
    return followed(_rows(node, way.source, times, way.step), fine, written)


def _fine(node: str, since: int, until: int, now: float) -> dict[int, AnyReading]:
    kept = flow.samples_read(node, min(FINE.reaches, max(0.0, now - since)))
    return together((at, reading) for at, reading in kept if since <= at < until)


def _rows(node: str, kept: Resolution, times: range, step: int) -> dict[int, AnyReading]:
    rows = SampleBucket.objects.filter(
        node=node, step=kept.step, at__gt=times[0] - kept.step, at__lt=times[-1] + step
    )
    return dict(rows.values_list("at", "series"))


def _written(node: str) -> int:
    """Return until when everything is in the database."""
    minutes = SampleBucket.objects.filter(node=node, step=MINUTES.step).order_by("-at")
    last = minutes.values_list("at", flat=True).first()
    return 0 if last is None else last + MINUTES.step
