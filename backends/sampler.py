"""The observer's memory of samples: every look is collected; a bucket that has ended is kept and sent."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import DatabaseError

from backends import bus, flow, holding, lifecycle, selectors, services
from backends.lifecycle import State
from backends.models import Backend
from backends.sampling.buckets import Collector
from backends.sampling.looks import SITE, BackendLooks, gpus_reading
from backends.sampling.resolution import FINE, MINUTES
from backends.sampling.stats import Reading, Stat

logger = logging.getLogger(__name__)

#: Minutes kept while the database is away.
_WAITING_MAX: Final = 24 * 60


@dataclass
class Sampler:
    """Samples of one GPU machine."""

    node: str
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    #: What the last whole bucket said of each backend: means by measure.
    latest: dict[str, dict[str, float | None]] = field(default_factory=dict)
    _looks: dict[tuple[str, str], BackendLooks] = field(default_factory=dict)
    _fine: Collector = field(default_factory=lambda: Collector(FINE.step))
    _minutes: Collector = field(default_factory=lambda: Collector(MINUTES.step))
    #: Minutes that are not written yet.
    _waiting: deque[tuple[int, Reading]] = field(default_factory=lambda: deque(maxlen=_WAITING_MAX))

    def see(
        self,
        rows: Iterable[Backend],
        seen: Mapping[str, Mapping[str, Any]],
        cards: Iterable[Mapping[str, Any]],
    ) -> None:
        """Take what was seen now.

        Args:
            rows: the backends of this machine.
            seen: of each, as the snapshot has it.
            cards: the GPUs, as the snapshot has them.
        """
        reading = {**gpus_reading(cards), **self._backends(rows, seen)}
        reading[SITE] = {"requests_held": Stat.of(holding.held())}
        self._take(self.wall(), reading)

    def tokens_per_second(self, backend: str) -> float | None:
        """Return how fast ``backend`` generated in the last whole bucket; None where nothing is known."""
        return self.latest.get(backend, {}).get("tokens_per_second")

    def close(self) -> None:
        """Keep what is there: the process ends."""
        if fine := self._fine.close():
            self._keep(*fine)
        if minute := self._minutes.close():
            self._waiting.append(minute)
        self._write()

    def _backends(self, rows: Iterable[Backend], seen: Mapping[str, Mapping[str, Any]]) -> Reading:
        found: Reading = {}
        looks: dict[tuple[str, str], BackendLooks] = {}
        at = self.clock()
        for row in rows:
            if lifecycle.is_serving(State(row.state)):
                key = (row.name, row.instance_id)
                looks[key] = self._looks.get(key) or BackendLooks()
                metrics = seen[row.name].get("metrics") or {}
                measures = looks[key].measures(at, metrics, flow.flow_read(row.name))
                found[f"backend/{row.name}"] = measures
        self._looks = looks  # an engine that was started anew counts from zero
        return found

    def _take(self, at: float, reading: Reading) -> None:
        if fine := self._fine.add(at, reading):
            self._keep(*fine)
        if minute := self._minutes.add(at, reading):
            self._waiting.append(minute)
            self._write()

    def _keep(self, at: int, reading: Reading) -> None:
        flow.samples_push(self.node, at, reading)
        series = selectors.sample_values(reading)
        self.latest = {one["id"]: one["values"] for one in series if one["kind"] == "backend"}
        bus.publish(
            {"type": "sample", "node": self.node, "at": at, "step": FINE.step, "series": series}
        )

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            services.samples_record(node=self.node, minutes=self._waiting, now=self.wall())
        except DatabaseError as exc:
            logger.warning("samples not written yet: %s", exc)
        else:
            self._waiting.clear()
