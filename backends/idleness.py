"""Backends that nobody asks for anything are asked to give their memory back.

The observer looks once a second. It only asks: the operation closes the gate and looks again, so a
request that comes first wins.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import redis

from accounts.actors import Actor
from accounts.errors import MhError
from backends import leases, selectors, services
from backends.errors import InvalidOptions
from backends.lifecycle import State
from backends.models import Backend

logger = logging.getLogger(__name__)


@dataclass
class Idleness:
    """When each backend was last seen with a request in flight; the broker knows when the last began."""

    now: Callable[[], float] = time.time
    #: Before that nothing was seen.
    _since: float = field(init=False)
    _busy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = self.now()

    def look(self, rows: Iterable[Backend], changing: Collection[str]) -> list[str]:
        """Ask for the unload of every row that has been idle for longer than its owner wants.

        Args:
            rows: the backends of this machine.
            changing: names of those that an operation is about.

        Returns:
            The names of those it asked for.
        """
        asked = []
        for row in rows:
            limit = _limit(row)
            if row.name in changing or row.state != State.READY or limit is None:
                continue
            idle = self.idle_seconds(row)
            if idle is not None and idle >= limit and _ask(row.name):
                asked.append(row.name)
        return asked

    def idle_seconds(self, row: Backend) -> float | None:
        """Return for how long nobody has used ``row``; None when nobody can tell."""
        now = self.now()
        try:
            used = leases.last_used(row.name)
        except redis.RedisError:
            return None
        if leases.in_flight(row.name):
            self._busy[row.name] = now
        ready = row.state_since.timestamp() if row.state_since else self._since
        # Only what was seen ending is known to have ended: a new observer counts from its own start.
        last = max(used or 0.0, self._busy.get(row.name, self._since), ready)
        return max(0.0, now - last)


def _limit(row: Backend) -> float | None:
    try:
        options: Any = selectors.backend_options(row)
    except InvalidOptions:
        return None
    limit: float | None = options.idleUnloadSeconds
    return limit


def _ask(name: str) -> bool:
    if not selectors.worker_alive():
        return False
    try:
        services.backend_unload(actor=Actor.system(), name=name)
    except MhError as exc:
        logger.info("%s is idle and is not unloaded: %s", name, exc.message)
        return False
    return True
