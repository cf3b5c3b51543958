"""One look at GPUs and engines as a reading."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from backends.sampling.counters import Counter
from backends.sampling.stats import Measures, Reading, Stat

#: Of a GPU, as a snapshot has it: bytes, percent, watts, degrees Celsius.
GPU_MEASURES: Final = (
    "memory_used", "memory_total", "utilization", "power", "power_limit", "temperature",
)  # fmt: skip
#: Of a backend: counts of requests, a share (0 to 1) of the cache, tokens per second, seconds.
BACKEND_MEASURES: Final = (
    "requests_running", "requests_waiting", "kv_cache_usage", "tokens_per_second",
    "prompt_tokens_per_second", "ttft_seconds", "engine_ttft_seconds",
)  # fmt: skip
#: Of the site.
SITE_MEASURES: Final = ("requests_held",)
#: The series of the site itself.
SITE: Final = "site/held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What went through the router to one backend, counted since the broker's start."""

    tokens: float = 0.0
    prompt_tokens: float = 0.0
    #: Requests whose first token came, and the seconds those took together.
    firsts: float = 0.0
    first_seconds: float = 0.0
    in_flight: int = 0


def gpu_key(card: Mapping[str, Any]) -> str:
    """Return what names the series of a GPU."""
    return f"gpu/{card.get('uuid') or card['index']}"


def gpus_reading(cards: Iterable[Mapping[str, Any]]) -> Reading:
    """Return what a snapshot says of its GPUs."""
    return {gpu_key(card): found for card in cards if (found := _gauges(card, GPU_MEASURES))}


def _gauges(said: Mapping[str, Any], names: Iterable[str]) -> Measures:
    return {name: Stat.of(said[name]) for name in names if said.get(name) is not None}


@dataclass
class BackendLooks:
    """Looks at one backend; remembers its counts from one to the next."""

    _counters: dict[str, Counter] = field(default_factory=dict)

    def measures(self, at: float, metrics: Mapping[str, Any], flow: Flow) -> Measures:
        """Return what can be said of a backend that serves.

        What the engine counts itself is what counts: it may have others to serve. What it does not say is
        taken from what went through the router.

        Args:
            at: seconds on a clock that is never set.
            metrics: as ``engines.base.Metrics``; empty where the engine said nothing.
            flow: what went through the router.
        """
        running, waiting = metrics.get("running"), metrics.get("waiting")
        found = _gauges(metrics, ["kv_cache_usage"])
        found["requests_running"] = Stat.of(flow.in_flight if running is None else running)
        found["requests_waiting"] = Stat.of(waiting or 0)
        found |= self._tokens(at, metrics, flow)
        found |= self._first_tokens(at, metrics, flow)
        return found

    def _tokens(self, at: float, metrics: Mapping[str, Any], flow: Flow) -> Measures:
        found: Measures = {}
        for name, own, routed in (
            ("tokens_per_second", "generation_tokens_total", flow.tokens),
            ("prompt_tokens_per_second", "prompt_tokens_total", flow.prompt_tokens),
        ):
            by_router = self._added(at, f"router {name}", routed)
            by_engine = self._added(at, f"engine {name}", metrics.get(own))
            added = by_router if self._is_unknown(f"engine {name}") else by_engine
            if added is not None:
                found[name] = Stat.rate(*added)
        return found

    def _first_tokens(self, at: float, metrics: Mapping[str, Any], flow: Flow) -> Measures:
        found: Measures = {}
        for name, count, seconds in (
            ("ttft_seconds", flow.firsts, flow.first_seconds),
            (
                "engine_ttft_seconds",
                metrics.get("first_tokens_total"),
                metrics.get("first_token_seconds_total"),
            ),
        ):
            requests = self._added(at, f"{name} count", count)
            took = self._added(at, f"{name} sum", seconds)
            if requests and took and requests[0] > 0:
                found[name] = Stat.rate(took[0], requests[0])
        return found

    def _added(self, at: float, name: str, value: float | None) -> tuple[float, float] | None:
        if value is None and name not in self._counters:
            return None
        return self._counters.setdefault(name, Counter()).read(at, value)

    def _is_unknown(self, name: str) -> bool:
        return name not in self._counters
