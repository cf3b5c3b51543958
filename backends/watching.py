"""Looks after engines that no operation of ours started: found, followed, and let go when they are gone."""

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import psutil
from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from backends import foreign, leases, lifecycle, selectors, services, supervisor
from backends.foreign import Server
from backends.lifecycle import State
from backends.models import OPEN_OPERATION_STATES, Backend, Lane, Operation

logger = logging.getLogger(__name__)

#: Seconds between two looks for engines nobody told us of, and after those that are known.
FIND_SECONDS: Final = 2.0
FOLLOW_SECONDS: Final = 1.0
#: Seconds until a stranger that took long to say that it is no engine is asked again.
STRANGER_SECONDS: Final = 15.0
_LONG: Final = 0.3
#: Looks in a row that find the port closed, or another program there, until an engine counts as gone.
GONE_AFTER: Final = 2
REPLACED_AFTER: Final = 3


def take_up(row: Backend, *, adopt: bool = True) -> Server | None:
    """Attach backend ``row`` to the engine that answers at its endpoint, or adopt a start of our own.

    Nothing is done while an operation is about to change the backend, unless it is that which asks.

    Args:
        row: a backend that is stopped or failed.
        adopt: whether a lost start of our own is taken up; else it is left to the next start, which ends it.

    Returns:
        What answers there, whether or not it could be taken up; None when nothing does.
    """
    try:
        server = foreign.find(row)
    except (httpx.HTTPError, OSError, MhError) as exc:
        logger.debug("looking for %s: %s", row.name, exc)
        return None
    if server is None or not server.model:
        return server
    facts = {"endpoint": server.endpoint, "model": server.model, "version": server.version}
    if server.instance is not None:
        if adopt and services.backend_adopt(
            name=row.name, instance_id=server.instance.instance_id, **facts
        ):
            leases.gate_open(row.name)
            supervisor.adopt(server.instance)
        return server
    if services.backend_attach(name=row.name, message=_found_words(row, server), **facts):
        leases.gate_open(row.name)
        _take_gpus(row)
    return server


def _take_gpus(row: Backend) -> None:
    """Note that its GPUs are taken; where two engines are on one by now, that cannot be helped."""
    numbers = foreign.gpus_of(row, selectors.backend_options(row))
    try:
        services.gpu_lease_take(actor=Actor.system(), backend=row.name, gpus=numbers)
    except MhError as exc:
        logger.warning("%s is attached, and %s", row.name, exc.message)


def take_up_all(*, adopt: bool = True) -> None:
    """Do so for every backend of this machine that is stopped or failed, now."""
    for row in selectors.backend_list():
        if row.node == settings.MH_NODE and row.state in lifecycle.FINDABLE:
            take_up(row, adopt=adopt)


def _found_words(row: Backend, server: Server) -> str:
    title = selectors.backend_engine(row).title
    return f"{foreign.said_by(title, server.endpoint, server.facts())}."


@dataclass
class Watcher:
    """The observer's memory of engines that are somebody else's."""

    #: What answered last, by backend: attached, or refused to let us in.
    servers: dict[str, Server] = field(default_factory=dict)
    _sockets: dict[str, frozenset[int]] = field(default_factory=dict)
    _misses: dict[str, int] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _next_find: float = 0.0
    _next_follow: float = 0.0

    def look(self, rows: list[Backend], busy: set[str]) -> None:
        """Look once; cheap when called more often than it is worth."""
        now = time.monotonic()
        free = [row for row in rows if row.name not in busy]
        if now >= self._next_follow:
            self._next_follow = now + FOLLOW_SECONDS
            for row in free:
                if row.attached:
                    self._follow(row)
        if now >= self._next_find:
            self._next_find = now + FIND_SECONDS
            for row in free:
                if not row.attached:
                    self._find(row, now)

    def facts(self, name: str) -> dict[str, Any] | None:
        """Return what a snapshot keeps of the server that backend ``name`` found and did not start."""
        server = self.servers.get(name)
        return server.facts() if server else None

    def pids(self, name: str) -> tuple[int, ...]:
        """Return the processes of an attached engine, as far as they are known."""
        server = self.servers.get(name)
        if server is None or server.pid is None:
            return ()
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(server.pid).children(recursive=True)
            return (server.pid, *(child.pid for child in children))
        return ()

    # --- those that are not ours yet --------------------------------------------------------------

    def _find(self, row: Backend, now: float) -> None:
        if row.state not in lifecycle.FINDABLE:
            self._forget(row.name)
            return
        sockets = foreign.listening(selectors.backend_options(row))
        if not sockets:
            self._forget(row.name)
            return
        if sockets == self._sockets.get(row.name) and now < self._not_before.get(row.name, 0.0):
            return
        if _is_busy(row.name):
            return
        self._sockets[row.name] = sockets
        server = take_up(row)
        took = time.monotonic() - now
        self._not_before[row.name] = now + (STRANGER_SECONDS if took > _LONG else 0.0)
        if server is None or server.instance is not None:
            self.servers.pop(row.name, None)
        else:
            self.servers[row.name] = server
            self._misses[row.name] = 0

    def _forget(self, name: str) -> None:
        for memory in (self.servers, self._sockets, self._misses, self._not_before):
            memory.pop(name, None)

    # --- those that are attached ------------------------------------------------------------------

    def _follow(self, row: Backend) -> None:
        """See whether the engine is still there, and what it serves by now."""
        options = selectors.backend_options(row)
        if foreign.endpoint_of(options) != row.endpoint:
            self._let_go(row, "It is configured at another endpoint now.")
            return
        sockets = foreign.listening(options)
        if not sockets:
            self._miss(row, GONE_AFTER, "It is gone.")
        elif sockets == self._sockets.get(row.name) and row.name in self.servers:
            self._misses[row.name] = 0
            self._refresh(row)
        else:
            self._meet_again(row, sockets)

    def _meet_again(self, row: Backend, sockets: frozenset[int]) -> None:
        """Look who has the port now: whoever runs it may have started it anew, or something else."""
        server = foreign.find(row)
        if server is not None and server.model and server.instance is None:
            self._sockets[row.name] = sockets
            self.servers[row.name] = server
            self._misses[row.name] = 0
            services.backend_refresh(name=row.name, model=server.model, version=server.version)
        else:
            self._miss(row, REPLACED_AFTER, "Another program has its port.")

    def _refresh(self, row: Backend) -> None:
        """Keep the model in memory, where others can change that; health is asked for elsewhere."""
        engine = selectors.backend_engine(row)
        if not engine.capabilities.many_models or row.state == State.PARKED:
            return
        configured = str(getattr(selectors.backend_options(row), "model", ""))
        target = foreign.target_of(row, configured)
        with contextlib.suppress(httpx.HTTPError, OSError):
            model = engine.loaded_model(target, timeout=foreign.ASK_TIMEOUT) or configured
            services.backend_refresh(name=row.name, model=model)

    def _miss(self, row: Backend, most: int, why: str) -> None:
        self._misses[row.name] = self._misses.get(row.name, 0) + 1
        if self._misses[row.name] >= most:
            self._let_go(row, why)

    def _let_go(self, row: Backend, why: str) -> None:
        if services.backend_detach(name=row.name, message=why):
            leases.cut(row.name)
            services.gpu_lease_release(actor=Actor.system(), backend=row.name)
        self._forget(row.name)


def _is_busy(name: str) -> bool:
    """Look again, just before a state is moved, whether an operation is about to."""
    rows = Operation.objects.filter(backend_id=name, lane=Lane.GPU)
    return rows.filter(state__in=OPEN_OPERATION_STATES).exists()
