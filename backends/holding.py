"""Requests that wait while an engine starts or switches: a place in the queue, and when to look again.

The queue is in the broker, one for the whole site, in the order the requests came. Who waits in a
process is renewed by one task of that process; places of a killed one vanish with their expiry.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import redis
import redis.asyncio
from django.conf import settings

from accounts.loops import PerLoop
from backends import bus
from backends.leases import CHANGES

logger = logging.getLogger(__name__)

#: Seconds between two looks whether something has changed for those who wait.
LOOK_SECONDS: Final = 0.05
#: Seconds between two renewals of the places; those who wait look again then in any case.
RENEW_SECONDS: Final = 1.0
_EXPIRY_SECONDS: Final = 10.0
_QUEUE: Final = "mh:held"


class Place:
    """One request's place in the queue."""

    def __init__(self, request_id: str) -> None:
        #: Sorts by the time it came.
        self.id = f"{time.time():017.6f}:{request_id}"
        #: 1 for the first; 0 until it is known.
        self.position = 0
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have the request look again."""
        self._changed.set()

    async def change(self) -> None:
        """Return when there is reason to look again: at the latest after ``RENEW_SECONDS``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RENEW_SECONDS * 2):
                await self._changed.wait()
        self._changed.clear()


class _Room:
    """The places of one event loop, looked after by one task."""

    def __init__(self) -> None:
        self._client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
        )
        self.places: set[Place] = set()
        self._task: asyncio.Task[None] | None = None
        self._seen: Any = None
        self._renewed = 0.0

    def enter(self, place: Place) -> None:
        self.places.add(place)
        self._renewed = 0.0
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_after())

    async def leave(self, place: Place) -> None:
        self.places.discard(place)
        with contextlib.suppress(redis.RedisError):
            await self._client.zrem(_QUEUE, place.id)

    async def _look_after(self) -> None:
        while self.places:
            try:
                await self._look()
            except redis.RedisError as exc:
                logger.debug("held requests not looked after: %s", exc)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        seen = await self._client.get(CHANGES)
        renew = time.monotonic() - self._renewed >= RENEW_SECONDS
        if renew:
            await self._renew()
        if renew or seen != self._seen:
            self._seen = seen
            for place in self.places:
                place.wake()

    async def _renew(self) -> None:
        self._renewed = time.monotonic()
        now = time.time()
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.zremrangebyscore(_QUEUE, "-inf", now)
            pipe.zadd(_QUEUE, {place.id: now + _EXPIRY_SECONDS for place in self.places})
            pipe.zrange(_QUEUE, 0, -1)
            *_, queue = await pipe.execute()
        order = {place_id: position for position, place_id in enumerate(sorted(queue), 1)}
        for place in self.places:
            place.position = order.get(place.id, place.position)


_rooms: Final = PerLoop(_Room)


def waiting() -> int:
    """Return how many requests of this event loop wait."""
    return len(_rooms.get().places)


def held() -> int:
    """Return how many requests of the whole site wait; 0 when the broker is away."""
    try:
        return bus.redis_client().zcount(_QUEUE, time.time(), "+inf")
    except redis.RedisError:
        return 0


@contextlib.asynccontextmanager
async def place_in_queue(request_id: str) -> AsyncIterator[Place]:
    """Take a place at the end of the queue for as long as the body runs."""
    room, place = _rooms.get(), Place(request_id)
    room.enter(place)
    try:
        yield place
    finally:
        await asyncio.shield(room.leave(place))
