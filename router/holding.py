"""From a name to somebody who answers it: at once, after a wait in the queue, or after others have failed.

A request waits while what it needs is started or switched to, or is started for it where the owner
allows that. It is refused when the wait would be, or has become, longer than ``MH_HOLD_SECONDS``.

Until the first piece of an answer has come, a failure is tried again, and then the next of the chain.
Never after: what a client has seen cannot be taken back.
"""

import asyncio
import functools
import math
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from django.conf import settings

from accounts import database
from accounts.actors import Actor
from accounts.errors import MhError, TooMany, Unavailable, UpstreamFailed, UpstreamTimedOut
from backends import services as backends
from backends.errors import BackendHeld, BackendMoved, BackendNotRunning
from backends.holding import Place, place_in_queue, waiting
from backends.request_leases import request_lease
from backends.selectors import Wait
from router import selectors
from router.breaker import Breaker
from router.errors import NoRoute
from router.events import QueuedEvent, Tried
from router.providers.base import Waits
from router.providers.openai_stream import broken_off, says_nothing
from router.selectors import Resolved, ResolvedChain

#: Seconds between two ``queued`` events when only the seconds left have changed.
_EVENT_SECONDS: Final = 5.0
#: Seconds a request waits for a broker that is away; ours is back within two.
_BROKER_SECONDS: Final = 10.0
#: Seconds in which a closed gate may be ahead of the database.
_LATE_SECONDS: Final = 1.0

#: How often one target is tried for one request.
TRIES: Final = 3
#: Seconds before a second try; twice that before a third, with some jitter.
_PAUSE_SECONDS: Final = 0.2
#: A target that wants more seconds of rest than this is not waited for.
_REST_SECONDS: Final = 5.0


def _lasts(chain: ResolvedChain) -> bool:
    """Return whether it depends on nothing but rows: how long a wait takes is another thing each moment."""
    return bool(chain.found) and chain.refusal is None


#: Says nothing about the health of a target.
_MODEL_MISSING: Final = frozenset({"model_not_found", "model_not_installed"})

_chains: Final[database.SharedReads[ResolvedChain]] = database.SharedReads(_lasts)
_T = TypeVar("_T")
#: Opens what an answer is read from.
Send = Callable[[Resolved], AbstractAsyncContextManager[AsyncIterator[Any]]]


@functools.cache
def breaker() -> Breaker:
    """Return the circuits of this process."""
    return Breaker(settings.MH_BREAKER_FAILURES)


def resolved(actor: Actor, role: str | None, model: str | None, asked: float) -> ResolvedChain:
    """Return who can answer now; in one read for all who ask at once. Raises as ``selectors.resolved_chain``."""
    user = actor.user
    key: Hashable = (role, model, user.pk if user else None)
    return _chains.get(
        key, asked, lambda: selectors.resolved_chain(role=role, model=model, user=user)
    )


class Waiting:
    """One request on its way to an answer."""

    def __init__(
        self,
        *,
        actor: Actor,
        role: str | None,
        model: str | None,
        chain: ResolvedChain,
        request_id: str,
    ) -> None:
        """Say what is asked for, and who can answer it as far as that is known by now."""
        self._actor = actor
        self._role, self._model = role, model
        self._chain: ResolvedChain | None = chain
        self._found: Resolved | None = None
        #: Names it at the engine, and among those in flight.
        self.request_id = request_id
        self._began = time.monotonic()
        self._came = datetime.now(tz=UTC)
        self._twice = ""
        self._tries: Counter[Hashable] = Counter()
        #: Targets that have failed, and are not tried again.
        self._spent: set[Hashable] = set()
        #: The target this request tries while its circuit is half open.
        self._trying: Hashable = None
        self._failure: MhError | None = None
        #: Those of the chain that were given up, in their order.
        self.tried: list[Tried] = []
        #: The first piece of the answer, and what brings the rest, once ``until_open`` has ended.
        self.first: Any = None
        self.rest: AsyncIterator[Any] = _nothing()

    @property
    def found(self) -> Resolved:
        """Who answers, once there is a lease."""
        if self._found is None:
            msg = "the request has not found an engine"
            raise RuntimeError(msg)
        return self._found

    @property
    def attempts(self) -> int:
        """How often it was sent to somebody."""
        return self._tries.total()

    async def until_open(
        self, stack: AsyncExitStack, send: Send, patience: float
    ) -> AsyncGenerator[QueuedEvent, None]:
        """Have somebody answer; say how long it takes. Afterwards there are ``found``, ``first`` and ``rest``.

        Args:
            stack: keeps the lease and the connection.
            send: sends the request.
            patience: seconds to wait for the first piece of an answer, of each who is asked.

        Raises:
            MhError: nobody can answer it, or nobody did: then the first failure.
        """
        while True:
            leased = False
            try:
                async with AsyncExitStack() as attempt:
                    if wait := await self._leased(attempt):
                        async for queued in self._until_leased(attempt, wait):
                            yield queued
                    leased = True
                    self._tries[self.found.key] += 1
                    await attempt.enter_async_context(_InAll(settings.MH_ANSWER_SECONDS))
                    items, first = await self._opened(attempt, send, patience)
                    while isinstance(first, Waits):
                        yield _queued(first.position, first)
                        first = await self._begun(_first_of(items), patience)
                    if first is None:
                        raise broken_off()
                    self.first, self.rest = first, items
                    breaker().worked(self.found.key)
                    stack.push_async_exit(attempt.pop_all())
                    return
            except MhError as exc:
                if not leased:
                    raise
                pause = self._failed(exc)
            await asyncio.sleep(pause)

    async def _opened(
        self, attempt: AsyncExitStack, send: Send, patience: float
    ) -> tuple[AsyncIterator[Any], Any]:
        """Send the request; return what the answer is read from, and its first piece."""

        async def opened() -> tuple[AsyncIterator[Any], Any]:
            items = await attempt.enter_async_context(send(self.found))
            return items, await _first_of(items)

        return await self._begun(opened(), patience)

    async def _begun(self, first: Awaitable[_T], patience: float) -> _T:
        """Return what ``first`` brings, within ``patience`` seconds."""
        try:
            async with asyncio.timeout(patience):
                return await first
        except TimeoutError as exc:
            who = self.found.route.backend or self.found.route.provider
            msg = f"{who} did not begin to answer within {patience:g} s. Try again."
            raise UpstreamTimedOut(msg, code="first_token_timed_out") from exc

    def _failed(self, exc: MhError) -> float:
        """Take note of a failure; return in how many seconds to go on, or raise it."""
        if not _may_be_somebody_elses(exc):
            raise exc
        found = self.found
        rest = float(exc.retry_after or 0) if isinstance(exc, TooMany) else 0.0
        if exc.code not in _MODEL_MISSING:
            breaker().failed(found.key, time.monotonic(), rest)
        self._failure = self._failure or exc
        tries = self._tries[found.key]
        self._trying = None
        # What has taken its time takes it again.
        soon = exc.retryable and not isinstance(exc, UpstreamTimedOut)
        if soon and tries < TRIES and rest <= _REST_SECONDS:
            self._chain = None
            self._trying = found.key
            return max(rest, _PAUSE_SECONDS * 2.0 ** (tries - 1) * random.uniform(0.75, 1.25))  # noqa: S311
        self._spent.add(found.key)
        route = found.route
        self.tried.append(
            Tried(
                entry=route.entry or "",
                provider=route.provider,
                model=route.model,
                message=exc.message,
            )
        )
        return 0.0

    async def _leased(self, stack: AsyncExitStack) -> Wait | None:
        """Take a lease on the engine that answers, and leave it to ``stack``; return what to wait for, if that is it.

        Raises:
            MhError: nobody can answer it.
        """
        try:
            await self._try(stack)
        except (BackendNotRunning, NoRoute) as exc:
            return self._worth(exc)
        return None

    async def _until_leased(
        self, stack: AsyncExitStack, wait: Wait
    ) -> AsyncGenerator[QueuedEvent, None]:
        """Wait for a lease; say how long it takes.

        Raises:
            MhError: nobody can answer it, or not soon enough.
        """
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
                yield _queued(place.position, wait)
            try:
                await self._try(stack)
            except (BackendNotRunning, NoRoute) as exc:
                wait = self._worth(exc)
            else:
                return

    async def _try(self, stack: AsyncExitStack) -> None:
        """Find who answers, and take a lease there; a cloud needs none."""
        for _ in range(3):
            found = self._found = await self._next()
            if not found.route.backend:
                return
            lease = request_lease(
                found.route.backend,
                self.request_id,
                found.token,
                sure=found.token == self._twice,
            )
            try:
                await stack.enter_async_context(lease)
            except BackendMoved:
                self._twice, self._chain = found.token, None
            except BackendNotRunning:
                self._chain = None
                raise
            else:
                return
        msg = "The engines change too often just now. Try again."
        raise BackendHeld(msg, retry_after=1)

    async def _next(self) -> Resolved:
        """Return who is asked next.

        Raises:
            NoRoute: nobody can be asked now; perhaps there is something to wait for.
            MhError: everybody was asked; this is the first failure.
        """
        chain = self._chain
        if chain is None:
            chain = await database.in_database(
                resolved, self._actor, self._role, self._model, time.perf_counter()
            )
        found, closed_for = self._candidate(chain)
        if found is None and chain.found and chain.refusal is None:
            # Those that are off have not been looked at: some of them may be worth a wait.
            chain = await database.in_database(
                selectors.resolved_chain,
                role=self._role,
                model=self._model,
                user=self._actor.user,
                explained=True,
            )
            found, closed_for = self._candidate(chain)
        # What is waited for is looked for again.
        self._chain = chain if found is not None else None
        if found is None:
            raise self._nobody(chain, closed_for)
        return found

    def _candidate(self, chain: ResolvedChain) -> tuple[Resolved | None, float]:
        """Return who is asked next, or None and in how many seconds somebody can be asked again."""
        rests: list[float] = []
        for found in chain.found:
            if found.key in self._spent:
                continue
            rest = breaker().open_for(found.key, time.monotonic())
            if not rest or found.key == self._trying:
                self._trying = found.key
                return found, 0.0
            rests.append(rest)
        return None, min(rests, default=0.0)

    def _nobody(self, chain: ResolvedChain, closed_for: float) -> MhError:
        if chain.refusal is not None and (chain.refusal.wait or not chain.found):
            return chain.refusal
        if self._failure is not None:
            return self._failure
        seconds = max(1, math.ceil(closed_for))
        msg = f"What answers this has failed several times in a row, and is given a rest. Try again in {seconds} s."
        return Unavailable(msg, code="circuit_open", retry_after=seconds)

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


def _queued(position: int, wait: Wait | Waits) -> QueuedEvent:
    return QueuedEvent(
        type="queued",
        position=max(1, position),
        eta_seconds=wait.eta_seconds,
        reason=wait.reason,
    )


async def _first_of(items: AsyncIterator[Any]) -> Any:
    """Return the first piece of an answer, or what it waits for; None where there is none.

    Frames that say no more than who speaks come together with what follows them: an engine that ends
    between the two has not begun to answer, and somebody else may.
    """
    first = await anext(items, None)
    while isinstance(first, bytes) and says_nothing(first):
        more = await anext(items, None)
        if more is None:
            break
        first += more
    return first


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


class _InAll:
    """The seconds an answer may take from its beginning to its end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError as exc:
            msg = f"The answer was not complete after {self._seconds:g} s, the longest an answer may take here."
            raise UpstreamTimedOut(msg, code="answer_timed_out") from exc


def _may_be_somebody_elses(exc: MhError) -> bool:
    """Say whether somebody else may answer what was refused with ``exc``: it is not the request's fault."""
    if exc.code in _MODEL_MISSING:
        return True
    return isinstance(exc, UpstreamFailed | Unavailable | UpstreamTimedOut | TooMany)
