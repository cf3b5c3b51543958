"""The leases of one event loop: taken, renewed, kept for the next request, and given back.

A lease lives ``LEASE_SECONDS`` unless its holder renews it, so those of a killed web process vanish.

Asking the broker wakes it, and this process once more for its answer, which costs more than all else a
request needs. So a lease whose request has ended is kept for a moment, and the next request to the same takes
it over without asking. Until it is given back it is in the broker, and counts: whoever waits until nothing is
in flight waits for it, too. Whatever may have closed a gate (``backends.leases.NEWS``, a look once a second, a
broker out of reach) has what is kept given back at once, and what was taken before is kept no more.
"""

import asyncio
import atexit
import contextlib
import functools
import logging
import multiprocessing.util
import time
from typing import Any, Final

import redis
import redis.asyncio
import redis.retry
from django.conf import settings
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from accounts.loops import PerLoop
from backends import leases
from backends.pipeline import Pipeline, checked

logger = logging.getLogger(__name__)

LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 1.0
#: Seconds a lease is kept once no request is in flight.
KEEP_SECONDS: Final = 0.1
#: Seconds since its last renewal in which a lease may be taken over: less than it lives.
_SURE_SECONDS: Final = 3.0

#: KEYS: gate, leases, token of what serves, time of last use. ARGV: now, expiry, lease id, token the request was sent to.
#: Returns ``taken``, ``moved``, or what the gate says.
_TAKE = """
local gate = redis.call('GET', KEYS[1])
if gate then return gate end
local serving = redis.call('GET', KEYS[3])
if serving and ARGV[4] ~= '' and serving ~= ARGV[4] then return 'moved' end
redis.call('SET', KEYS[4], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
return 'taken'
"""
#: What came of asking, where it is not what the gate says.
TAKEN, MOVED = "taken", "moved"

#: Backend and token.
Purpose = tuple[str, str]


class Lease:
    """One entry in the broker: a request in flight, or kept for the next."""

    __slots__ = ("era", "id", "purpose", "renewed", "task", "was_cut")

    def __init__(self, purpose: Purpose, lease_id: str) -> None:
        self.purpose = purpose
        self.id = lease_id
        #: Of its request; None while it is kept.
        self.task: asyncio.Task[Any] | None = None
        self.was_cut = False
        #: The holder's when the broker was asked for it.
        self.era = -1
        #: When the broker was last told of it, by the monotonic clock.
        self.renewed = 0.0

    def end(self) -> None:
        """End its request: the backend is being stopped under it."""
        if self.task is not None:
            self.was_cut = True
            self.task.cancel()


class Holder:
    """The leases of one event loop, renewed together."""

    def __init__(self) -> None:
        self._broker = Pipeline()
        #: All that are in the broker.
        self._leases: set[Lease] = set()
        self._kept: dict[Purpose, list[Lease]] = {}
        self._in_use = 0
        #: The most that were in use at once since the last renewal.
        self._peak = 0
        #: Backends that were used since the last renewal by what was kept.
        self._used: set[str] = set()
        #: Counts up when a gate may have closed: leases asked for before are not kept.
        self._era = 0
        #: Whether a closing gate is heard of.
        self._hears = False
        self._look = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._quiet: asyncio.TimerHandle | None = None
        _prepare_exit()
        self._listening = asyncio.create_task(self._listen())

    # --- for requests ---------------------------------------------------------------------------

    def take_over(self, purpose: Purpose, task: "asyncio.Task[Any]") -> Lease | None:
        """Return a lease that was kept, now of ``task``; None where there is none."""
        kept = self._kept.get(purpose)
        if not kept:
            return None
        if time.monotonic() - kept[-1].renewed > _SURE_SECONDS:
            # This process was stopped for a while, perhaps, and the lease has expired.
            self._new_era()
            return None
        lease = kept.pop()
        self._used.add(purpose[0])
        self._count(lease, task)
        return lease

    async def take(self, lease: Lease, task: "asyncio.Task[Any]") -> str:
        """Take ``lease`` for ``task``; return what came of it: ``taken``, ``moved``, ``held`` or ``closed``."""
        backend, token = lease.purpose
        now = time.time()
        of = (leases.gate_key, leases.leases_key, leases.serving_key, leases.used_key)
        keys = [key(backend) for key in of]
        lease.era, lease.renewed = self._era, time.monotonic()
        asked = self._broker.ask("EVAL", _TAKE, 4, *keys, now, now + LEASE_SECONDS, lease.id, token)
        try:
            word = str(checked(await asyncio.shield(asked)))
        except asyncio.CancelledError:
            # It may be taken all the same; commands go out in order.
            self._forget([lease])
            raise
        if word == TAKEN:
            self._leases.add(lease)
            _holding.add(self)
            self._count(lease, task)
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew())
        return word

    async def correct(self, lease: Lease) -> None:
        """Say that what ``lease`` is for is what serves: the database says so, and it is the truth."""
        backend, token = lease.purpose
        checked(await self._broker.ask("SET", leases.serving_key(backend), token))

    async def leave(self, lease: Lease) -> None:
        """Keep ``lease``, or give it back: its request has ended."""
        lease.task = None
        self._in_use -= 1
        if self._hears and lease.era == self._era and not lease.was_cut:
            self._kept.setdefault(lease.purpose, []).append(lease)
            if not self._in_use and self._quiet is None:
                loop = asyncio.get_running_loop()
                self._quiet = loop.call_later(KEEP_SECONDS, self._fell_quiet)
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._forget([lease]))

    def _count(self, lease: Lease, task: "asyncio.Task[Any]") -> None:
        lease.task = task
        self._in_use += 1
        self._peak = max(self._peak, self._in_use)

    # --- what is kept ---------------------------------------------------------------------------

    def _fell_quiet(self) -> None:
        self._quiet = None
        if not self._in_use:
            self._give_back(len(self._leases))

    def _new_era(self) -> None:
        """Give back all that is kept, and keep nothing that was taken before: a gate may be closed."""
        self._era += 1
        self._give_back(len(self._leases))

    def _give_back(self, count: int) -> None:
        """Give back ``count`` of what is kept, those used longest ago first; all if there are not as many."""
        for purpose, kept in list(self._kept.items()):
            gone = kept[: max(count, 0)]
            count -= len(gone)
            if gone:
                self._forget(gone)
            if len(gone) == len(kept):
                del self._kept[purpose]
            else:
                del kept[: len(gone)]
        self._say_used()

    def _forget(self, gone: list[Lease]) -> "asyncio.Future[Any]":
        """Take those of one backend out of the broker."""
        self._leases.difference_update(gone)
        if not self._leases:
            _holding.discard(self)
        key = leases.leases_key(gone[0].purpose[0])
        return self._broker.ask("ZREM", key, *(lease.id for lease in gone))

    def _say_used(self) -> None:
        for backend in self._used:
            self._broker.ask("SET", leases.used_key(backend), time.time())
        self._used.clear()

    # --- the broker -----------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hear of gates that close."""
        # redis-py would connect again by itself, and say nothing of what it has missed.
        client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        )
        while True:
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(leases.NEWS)
                    async for _ in channel.listen():
                        # The first says that from now on nothing is missed.
                        self._hears = True
                        self._new_era()
                        self._look.set()
            except (redis.RedisError, OSError) as exc:
                logger.debug("gates not heard of: %s", exc)
            finally:
                self._hears = False
            self._new_era()
            await asyncio.sleep(RENEW_SECONDS)

    async def _renew(self) -> None:
        while self._leases:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._look.wait()
            self._look.clear()
            self._give_back(len(self._leases) - self._peak)
            self._peak = self._in_use
            try:
                await self._renew_once()
            except redis.RedisError as exc:
                logger.warning("leases not renewed: %s", exc)
                self._new_era()

    async def _renew_once(self) -> None:
        now, expiry = time.monotonic(), time.time() + LEASE_SECONDS
        held: dict[str, list[Lease]] = {}
        for lease in self._leases:
            held.setdefault(lease.purpose[0], []).append(lease)
        asked = []
        for backend, mine in held.items():
            entries = [part for lease in mine for part in (expiry, lease.id)]
            renewed = self._broker.ask("ZADD", leases.leases_key(backend), "XX", *entries)
            cut = self._broker.ask("EXISTS", leases.cut_key(backend))
            gate = self._broker.ask("EXISTS", leases.gate_key(backend))
            asked.append((mine, renewed, cut, gate))
        for mine, *answers in asked:
            _, is_cut, is_closed = [checked(await answer) for answer in answers]
            for lease in mine:
                lease.renewed = now
            if is_cut:
                for lease in mine:
                    lease.end()
            if is_cut or is_closed:
                self._new_era()

    def at_exit(self) -> None:
        """Give everything back, without the event loop: it has ended."""
        client = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=1, retry=redis.retry.Retry(NoBackoff(), 0)
        )
        for lease in list(self._leases):
            client.zrem(leases.leases_key(lease.purpose[0]), lease.id)


#: Those that hold leases.
_holding: set[Holder] = set()


@functools.cache
def _prepare_exit() -> None:
    """Have a process that ends by itself leave no leases behind, for which a switch would wait."""
    atexit.register(_at_exit)
    # A process that multiprocessing has forked leaves without ``atexit``.
    multiprocessing.util.Finalize(None, _at_exit, exitpriority=10)


def _at_exit() -> None:
    with contextlib.suppress(redis.RedisError):
        while _holding:
            _holding.pop().at_exit()


_holders: Final = PerLoop(Holder)


def holder() -> Holder:
    """Return the holder of the running event loop."""
    return _holders.get()
