"""From a name to an engine that answers it: at once, or after a wait in the queue.

A request waits while what it needs is started or switched to, or is started for it where the owner
allows that. It is refused when the wait would be, or has become, longer than ``MH_HOLD_SECONDS``.
"""

import math
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

from django.conf import settings

from accounts import database
from accounts.actors import Actor
from backends import services as backends
from backends.errors import BackendHeld, BackendMoved, BackendNotRunning
from backends.holding import Place, place_in_queue, waiting
from backends.leases import request_lease
from backends.selectors import Wait
from router import selectors
from router.errors import NoRoute
from router.events import QueuedEvent
from router.selectors import Resolved

#: Seconds between two ``queued`` events when only the seconds left have changed.
_EVENT_SECONDS: Final = 5.0
#: Seconds a request waits for a broker that is away; ours is back within two.
_BROKER_SECONDS: Final = 10.0
#: Seconds in which a closed gate may be ahead of the database.
_LATE_SECONDS: Final = 1.0

_routes: Final[database.SharedReads[Resolved]] = database.SharedReads()


def resolved(role: str | None, model: str | None, asked: float) -> Resolved:
    """Return who answers now; in one read for all who ask at once. Raises as ``selectors.resolved``."""
    return _routes.get((role, model), asked, lambda: selectors.resolved(role=role, model=model))


class Waiting:
    """One request on its way to an engine."""

    def __init__(
        self,
        *,
        actor: Actor,
        role: str | None,
        model: str | None,
        found: Resolved | None,
        request_id: str,
    ) -> None:
        """Say what is asked for, and who answers it as far as that is known by now."""
        self._actor = actor
        self._role, self._model = role, model
        self._found = found
        #: Names it at the engine, and among those in flight.
        self.request_id = request_id
        self._began = time.monotonic()
        self._came = datetime.now(tz=UTC)
        self._twice = ""

    @property
    def found(self) -> Resolved:
        """Who answers, once ``until_leased`` has ended."""
        if self._found is None:
            msg = "the request has not found an engine"
            raise RuntimeError(msg)
        return self._found

    async def until_leased(self, stack: AsyncExitStack) -> AsyncGenerator[QueuedEvent, None]:
        """Take a lease on the engine that answers, and leave it to ``stack``; say how long it takes.

        Raises:
            MhError: nobody can answer it, or not soon enough.
        """
        try:
            await self._try(stack)
        except (BackendNotRunning, NoRoute) as exc:
            wait = self._worth(exc)
        else:
            return
        _refuse_crowd()
        async with place_in_queue(self.request_id) as place:
            async for event in self._queue(stack, place, wait):
                yield event

    async def _queue(
        self, stack: AsyncExitStack, place: Place, wait: Wait
    ) -> AsyncGenerator[QueuedEvent, None]:
        said: tuple[int, str] = (0, "")
        said_at = 0.0
        while True:
            self._refuse_long(wait)
            await place.change()
            # The oldest asks: who came first is served first, whatever others ask for.
            if wait.on_demand and place.position == 1:
                await self._ask_for(wait)
            news = (place.position, wait.reason)
            if news != said or time.monotonic() - said_at >= _EVENT_SECONDS:
                said, said_at = news, time.monotonic()
                yield _queued(place, wait)
            try:
                await self._try(stack)
            except (BackendNotRunning, NoRoute) as exc:
                wait = self._worth(exc)
            else:
                return

    async def _try(self, stack: AsyncExitStack) -> None:
        """Find who answers, and take a lease there."""
        for _ in range(3):
            if self._found is None:
                self._found = await database.in_database(
                    resolved, self._role, self._model, time.perf_counter()
                )
            found = self._found
            lease = request_lease(
                found.route.backend,
                self.request_id,
                found.token,
                sure=found.token == self._twice,
            )
            try:
                await stack.enter_async_context(lease)
            except BackendMoved:
                self._twice, self._found = found.token, None
            except BackendNotRunning:
                self._found = None
                raise
            else:
                return
        msg = "The engines change too often just now. Try again."
        raise BackendHeld(msg, retry_after=1)

    def _worth(self, exc: BackendNotRunning | NoRoute) -> Wait:
        """Return what is waited for; raise ``exc`` where waiting does not help."""
        if isinstance(exc, BackendHeld):
            return Wait(backend="", reason="The engine is being switched.")
        if isinstance(exc, NoRoute) and exc.wait is not None:
            return exc.wait
        waited = time.monotonic() - self._began
        if exc.code == "broker_unavailable" and waited < _BROKER_SECONDS:
            return Wait(backend="", reason="The site's broker is starting again.")
        if exc.code == "backend_draining" and waited < _LATE_SECONDS:
            # The gate closes a moment before the row says so.
            return Wait(backend="", reason="The engine is being switched.")
        raise exc

    async def _ask_for(self, wait: Wait) -> None:
        """Have the backend started; raises when that was tried since the request came, and failed."""
        await database.in_database(
            backends.backend_on_demand,
            actor=self._actor,
            name=wait.backend,
            model=wait.wanted or None,
            since=self._came,
        )

    def _refuse_long(self, wait: Wait) -> None:
        waited = time.monotonic() - self._began
        left = settings.MH_HOLD_SECONDS - waited
        eta = wait.eta_seconds or 0.0
        if left > 0 and eta <= left:
            return
        retry = max(1, math.ceil(eta))
        msg = (
            f"{wait.reason} That takes longer than a request may wait here "
            f"({settings.MH_HOLD_SECONDS} s). Try again in {retry} s."
        )
        raise NoRoute(msg, code="wait_too_long", retry_after=retry)


def _refuse_crowd() -> None:
    if waiting() >= settings.MH_HOLD_REQUESTS:
        msg = "Too many requests wait for the engine already. Try again in a few seconds."
        raise NoRoute(msg, code="queue_full", retry_after=5)


def _queued(place: Place, wait: Wait) -> QueuedEvent:
    return QueuedEvent(
        type="queued",
        position=max(1, place.position),
        eta_seconds=wait.eta_seconds,
        reason=wait.reason,
    )
