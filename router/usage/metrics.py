"""The sums of all requests in Prometheus's text format.

They are computed in one place, the database, where every web process adds to them with its records
(``UsageTotal``): a scrape sees the same numbers whichever process answers it, and a restart sets none back.
Source: Prometheus, "Exposition formats", text format 0.0.4.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from router.usage_models import BUCKETS_MS, UsageTotal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_COUNTERS: Final = {
    "mh_requests_total": ("Requests that have ended.", "requests"),
    "mh_prompt_tokens_total": ("Tokens that engines read.", "prompt_tokens"),
    "mh_completion_tokens_total": ("Tokens that engines generated.", "completion_tokens"),
}
_HISTOGRAMS: Final = {
    "mh_request_seconds": ("Time from a request to its end.", "total"),
    "mh_time_to_first_token_seconds": ("Time from a request to its first token.", "ttft"),
    "mh_queued_seconds": ("Time until a request was sent to an engine.", "queued"),
}
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition() -> str:
    """Return every metric of the router."""
    totals = list(UsageTotal.objects.all())
    return "".join(f"{line}\n" for line in _lines(totals))


def _lines(totals: list[UsageTotal]) -> Iterator[str]:
    for name, (help_text, column) in _COUNTERS.items():
        yield from _head(name, help_text, "counter")
        for total in totals:
            yield f"{name}{_labels(_names(total))} {getattr(total, column)}"
    for name, (help_text, column) in _HISTOGRAMS.items():
        yield from _head(name, help_text, "histogram")
        for total in totals:
            yield from _histogram(name, total, column)


def _head(name: str, help_text: str, kind: str) -> Iterable[str]:
    return f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"


def _histogram(name: str, total: UsageTotal, column: str) -> Iterator[str]:
    names = _names(total)
    counts = list(accumulate(getattr(total, f"{column}_buckets")))
    limits = [f"{limit / 1000:g}" for limit in BUCKETS_MS]
    for limit, count in zip([*limits, "+Inf"], counts, strict=True):
        yield f"{name}_bucket{_labels({**names, 'le': limit})} {count}"
    yield f"{name}_sum{_labels(names)} {getattr(total, f'{column}_ms') / 1000:.6f}"
    yield f"{name}_count{_labels(names)} {counts[-1]}"


def _names(total: UsageTotal) -> dict[str, str]:
    return {
        "provider": total.provider,
        "backend": total.backend,
        "model": total.model,
        "surface": total.surface,
        "outcome": total.outcome,
    }


def _labels(names: Mapping[str, str]) -> str:
    inside = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in names.items())
    return f"{{{inside}}}"
