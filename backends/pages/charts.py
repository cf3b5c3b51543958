"""The Charts page: how GPUs and engines did over time, and do now."""

import time
from typing import Any

from django.http import HttpRequest, HttpResponse

from accounts.actors import Actor
from accounts.pages import Page, only, shown
from accounts.permissions import Permission
from backends import charts, selectors


@only("GET")
def view(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the time asked for with ``?range=``: drawn with JavaScript, in numbers without."""
    del actor
    return shown(request, "backends/charts.html", "Charts", _context(request.GET.get("range", "")))


def _context(key: str) -> dict[str, Any]:
    chosen, now = charts.range_of(key), time.time()
    samples = selectors.samples_between(now=now, since=now - chosen.seconds, until=now)
    kinds = {one["kind"] for one in samples["series"]}
    shown_groups = {
        "gpu": "gpu" in kinds or bool(selectors.status()["gpus"]),
        "engine": "backend" in kinds,
    }
    groups = [
        {
            "key": key,
            "title": title,
            "charts": [chart for chart in charts.CHARTS if chart.group == key],
            "shown": shown_groups[key],
        }
        for key, title in charts.GROUPS.items()
    ]
    return {
        "groups": groups,
        "ranges": charts.RANGES,
        "chosen": chosen,
        "numbers": charts.numbers(samples) if any(shown_groups.values()) else [],
        "config": {**charts.tables(), "range": chosen.key, "samples": samples},
    }


PAGE = Page(
    name="charts",
    title="Charts",
    path="charts/",
    icon="monitoring",
    section="System",
    permission=Permission.STATUS_READ,
    view=view,
    order=30,
)
