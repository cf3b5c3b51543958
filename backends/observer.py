"""Watches the engines and GPUs of one machine, and publishes what it sees.

Four times a second it looks whether processes live; once a second it asks engines for their health
and GPUs for their memory. It moves states only for what happened by itself: an engine that died, one
that stopped answering and came back. A keeper that was killed is replaced.
"""

import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from django.conf import settings
from django.db import DatabaseError, connections

from accounts.actors import Actor
from accounts.errors import MhError
from backends import (
    booting,
    bus,
    gpu,
    gpu_holders,
    leases,
    lifecycle,
    plan_reading,
    selectors,
    services,
    standby,
    supervisor,
)
from backends.idleness import Idleness
from backends.lifecycle import State
from backends.memory_peaks import Peaks
from backends.models import OPEN_OPERATION_STATES, Backend, Lane, Operation
from backends.sampler import Sampler
from backends.watching import Watcher
from backends.words import exit_in_words

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.25
PROBE_SECONDS: Final = 1.0
PROBE_TIMEOUT: Final = 2.0
#: Missed probes after which it is asked whether the engine still has its port.
CLOSED_AFTER_MISSES: Final = 2
_LOG_LINES: Final = 400
#: Keys of a snapshot that change all the time; a change in them alone is no news.
_NO_NEWS: Final = frozenset({"observed_at", "memory"})
#: The same of its GPUs; samples say it every few seconds.
_NO_NEWS_OF_GPU: Final = frozenset({"power", "temperature"})


@dataclass
class Observer:
    """The loop's memory between two looks."""

    node: str = field(default_factory=lambda: settings.MH_NODE)
    missed: dict[str, int] = field(default_factory=dict)
    reserve: standby.Reserve = field(default_factory=lambda: standby.Reserve(settings.MH_HOME))
    seen: dict[str, Any] = field(default_factory=dict)
    idleness: Idleness = field(default_factory=Idleness)
    peaks: Peaks = field(default_factory=Peaks)
    watcher: Watcher = field(default_factory=Watcher)
    startup: booting.Startup = field(default_factory=booting.Startup)
    sampler: Sampler = field(init=False)
    _next_probe: float = 0.0
    _published: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.node)

    def run(self, stopped: Any) -> None:
        """Look until ``stopped`` (a ``threading.Event``) is set."""
        while not stopped.is_set():
            began = time.monotonic()
            try:
                self.look()
            except DatabaseError as exc:
                logger.warning("cannot observe: %s", exc)
            except Exception:
                # The boundary: a plugin's bug must not blind the site.
                logger.exception("observer failed once")
            finally:
                connections.close_all()
            stopped.wait(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))
        self.sampler.close()

    def look(self) -> None:
        """Look once."""
        rows = [row for row in selectors.backend_list() if row.node == self.node]
        busy = self._busy()
        for row in rows:
            if row.name not in busy:
                self._check_process(row)
        self.watcher.look(rows, busy)
        if time.monotonic() >= self._next_probe:
            self._next_probe = time.monotonic() + PROBE_SECONDS
            self._probe_all(rows, busy)
            self.startup.tick()
            self.idleness.look(rows, busy)

    def _busy(self) -> set[str]:
        """Return the backends that an operation is changing now; their states are the runner's."""
        running = Operation.objects.filter(
            node=self.node, lane=Lane.GPU, state__in=OPEN_OPERATION_STATES
        )
        pairs = running.values_list("backend_id", "from_backend")
        return {name for pair in pairs for name in pair if name}

    # --- processes ------------------------------------------------------------------------------

    def _check_process(self, row: Backend) -> None:
        if row.attached or not lifecycle.is_alive(State(row.state)):
            return
        inst = selectors.backend_instance(row)
        if inst is None:
            self._fail(row, f"{self._title(row)} is not running any more.", "")
            return
        seen = supervisor.inspect(inst)
        if seen.exit is not None or not seen.alive:
            self._died(row, inst, seen)
        elif not seen.keeper_alive:
            logger.warning("keeper of %s is gone; taking its place", row.name)
            supervisor.adopt(inst)

    def _check_port(self, row: Backend) -> None:
        """Clear away an engine that has closed its port, whatever of it still lives.

        vLLM hangs like that when somebody sends it TERM while a stream is open.
        """
        inst = selectors.backend_instance(row)
        if inst is None or self.missed.get(row.name, 0) < CLOSED_AFTER_MISSES:
            return
        if supervisor.owns_listener(inst, urlsplit(row.endpoint).port or 0):
            return
        self._clear_away(row, inst, "closed its port without being asked to by this site")

    def _died(self, row: Backend, inst: supervisor.Instance, seen: supervisor.Inspection) -> None:
        """The engine ended by itself."""
        how = f" ({exit_in_words(seen.exit)})" if seen.exit else ""
        self._clear_away(row, inst, f"ended unexpectedly{how}")

    def _clear_away(self, row: Backend, inst: supervisor.Instance, what: str) -> None:
        """End those who still wait for the engine, and what is left of it; then say what happened."""
        leases.cut(row.name)
        cleared = False
        try:
            supervisor.stop(inst, grace=1.0)
            cleared = True
        except MhError as exc:
            logger.error("leftovers of %s: %s", row.name, exc.message)  # noqa: TRY400
        engine = selectors.backend_engine(row)
        reason = engine.failure_reason(supervisor.log_tail(inst, _LOG_LINES))
        self._fail(row, f"{engine.title} {what}.", reason, cleared=cleared)

    def _fail(self, row: Backend, failure: str, detail: str, *, cleared: bool = True) -> None:
        services.backend_lost(
            actor=Actor.system(),
            name=row.name,
            expected=State(row.state),
            cleared=cleared,
            failure=failure,
            failure_detail=selectors.mask(detail, row),
        )

    @staticmethod
    def _title(row: Backend) -> str:
        return selectors.backend_engine(row).title

    # --- health, memory, GPUs -------------------------------------------------------------------

    def _probe_all(self, rows: list[Backend], busy: set[str]) -> None:
        for row in rows:
            self.seen[row.name] = self._probe(row, counted=row.name not in busy)
        self._keep_standbys(rows)
        cards = self._gpus(rows)
        self.sampler.see(rows, self.seen, cards)
        for name, facts in self.seen.items():
            facts["tokens_per_second"] = self.sampler.tokens_per_second(name)
        snapshot = {
            "observed_at": selectors.now().isoformat(),
            "backends": self.seen,
            "gpus": cards,
            "memory": plan_reading.memory_now(),
        }
        for row in rows:
            self.peaks.see(row, cards, self.seen[row.name].get("memory"))
        bus.snapshot_write(self.node, snapshot)
        self._publish_news(snapshot)

    def _keep_standbys(self, rows: list[Backend]) -> None:
        """Keep what waits for a start; while an operation runs, that is its runner's."""
        if self._busy():
            return
        for row in rows:
            self.reserve.look(row.name, selectors.standby_wanted(row))
        self.reserve.end_others([row.name for row in rows])

    def _probe(self, row: Backend, *, counted: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "detection": selectors.detection_now(row),
            "server": self.watcher.facts(row.name),
        }
        facts["standby"] = standby.facts(settings.MH_HOME, row.name)
        inst = selectors.backend_instance(row)
        if inst is not None:
            facts["memory"] = supervisor.rss_bytes(inst)
        if lifecycle.is_serving(State(row.state)):
            facts["metrics"] = self._ask(row, counted=counted)
            facts["models"] = _models_offered(row) if row.attached else None
        else:
            self.missed.pop(row.name, None)
        return facts

    def _ask(self, row: Backend, *, counted: bool) -> dict[str, Any]:
        """Ask a running engine for its health and gauges; one missed answer changes nothing."""
        engine = selectors.backend_engine(row)
        target = selectors.backend_target(row)
        metrics: dict[str, Any] = {}
        try:
            healthy = engine.is_healthy(target, timeout=PROBE_TIMEOUT)
            if healthy:
                metrics = asdict(engine.metrics(target, timeout=PROBE_TIMEOUT))
        except (httpx.HTTPError, OSError):
            healthy = False
        self.missed[row.name] = 0 if healthy else self.missed.get(row.name, 0) + 1
        if counted:
            self._move_by_health(row)
            self._check_port(row)
        return metrics

    def _move_by_health(self, row: Backend) -> None:
        state = State(row.state)
        missed = self.missed[row.name]
        after = lifecycle.after_missed_probes(state, missed)
        if after == state:
            return
        why = f"{self._title(row)} did not answer {missed} times in a row." if missed else ""
        services.backend_transition(
            actor=Actor.system(), name=row.name, to=after, expected=state, failure=why
        )

    def _gpus(self, rows: list[Backend]) -> list[dict[str, Any]]:
        owners = {
            pid: row.name
            for row in rows
            for inst in [selectors.backend_instance(row)]
            if inst is not None
            for pid in supervisor.tree(inst)
        }
        owners |= {pid: row.name for row in rows for pid in self.watcher.pids(row.name)}
        holders = gpu_holders.gpu_holders(self.node)
        return [_gpu_payload(card, owners, holders) for card in gpu.gpus()]

    def _publish_news(self, snapshot: dict[str, Any]) -> None:
        """Send the status when something a person would see has changed."""
        news = _without(snapshot, _NO_NEWS)
        news["backends"] = {name: _news_of(facts) for name, facts in self.seen.items()}
        news["gpus"] = [_without(card, _NO_NEWS_OF_GPU) for card in snapshot["gpus"]]
        news["in_flight"] = {name: selectors.in_flight(name) for name in self.seen}
        news["worker"] = selectors.worker_alive()
        rounded = _rounded(news)
        if rounded != self._published:
            self._published = rounded
            services.status_publish()


def _models_offered(row: Backend) -> list[str] | None:
    """Return the models an engine that is somebody else's says it has; None where it does not say."""
    engine = selectors.backend_engine(row)
    try:
        found = engine.models_of(selectors.backend_target(row), timeout=PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError, NotImplementedError, MhError):
        return None
    return [model.id for model in found]


def _gpu_payload(
    card: gpu.Gpu, owners: dict[int, str], holders: dict[str, list[str]]
) -> dict[str, Any]:
    payload = asdict(card)
    payload["holders"] = holders.get(card.uuid or gpu_holders.by_number(card.index), [])
    payload["processes"] = [
        {**process, "backend": owners.get(process["pid"])} for process in payload["processes"]
    ]
    return payload


def _without(facts: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in names}


def _news_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is news of a backend: that it generates, and not how fast just now."""
    return {**facts, "tokens_per_second": bool(facts.get("tokens_per_second"))}


def _rounded(value: Any) -> Any:
    """Return ``value`` with memory in steps of 16 MiB, so that breathing is no news."""
    step = 16 * 1024 * 1024
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value > step:
        return value // step
    return value
