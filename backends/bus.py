"""The broker as a bulletin board: status frames to browsers, snapshots, and who is alive.

Nothing here raises because the broker is away: a change is true once it is in the database, and
everything published can be published again.
"""

import asyncio
import contextlib
import functools
import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import kombu.exceptions
import redis
from celery import current_app
from channels.layers import get_channel_layer
from django.conf import settings

logger = logging.getLogger(__name__)

#: Channel-layer group of every ``/ws/status/`` socket.
STATUS_GROUP: Final = "status"
#: Seconds after which a snapshot nobody renewed is no longer true.
SNAPSHOT_TTL: Final = 15
#: Seconds after which a worker that was not heard of counts as away.
WORKER_TTL: Final = 5


@functools.cache
def redis_client() -> "redis.Redis":
    """Return this process's connection pool to the broker."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
    )


class _Publisher:
    """A thread with an event loop of its own, so that sync code can publish in order and without waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, frame: Mapping[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(self._send(frame), self._running_loop())

    def flush(self, timeout: float) -> None:
        """Wait until what was sent so far has left, at most ``timeout`` seconds."""
        loop = self._loop
        if loop is not None:
            done = asyncio.run_coroutine_threadsafe(_nothing_left(), loop)
            with contextlib.suppress(TimeoutError):
                done.result(timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="mh-publisher", daemon=True
                ).start()
            return self._loop

    async def _send(self, frame: Mapping[str, Any]) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        try:
            message = {"type": "status.frame", "frame": dict(frame)}
            await asyncio.wait_for(layer.group_send(STATUS_GROUP, message), timeout=2)
        except (redis.RedisError, OSError, TimeoutError) as exc:
            logger.debug("status frame not published: %s", exc)


async def _nothing_left() -> None:
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    await asyncio.gather(*others, return_exceptions=True)


_publisher = _Publisher()


def publish(frame: Mapping[str, Any]) -> None:
    """Send ``frame`` to every ``/ws/status/`` socket; returns at once."""
    _publisher.send(frame)


def flush(timeout: float = 2.0) -> None:
    """Wait until published frames have left. For short-lived processes."""
    _publisher.flush(timeout)


def snapshot_write(node: str, snapshot: Mapping[str, Any]) -> None:
    """Keep what the observer of ``node`` last saw."""
    try:
        redis_client().set(f"mh:snapshot:{node}", json.dumps(snapshot), ex=SNAPSHOT_TTL)
    except redis.RedisError as exc:
        logger.warning("snapshot not written: %s", exc)


def snapshot_read(node: str) -> dict[str, Any] | None:
    """Return what the observer of ``node`` last saw; None if nothing recent is there."""
    try:
        text = redis_client().get(f"mh:snapshot:{node}")
    except redis.RedisError:
        return None
    return json.loads(str(text)) if text else None


def worker_beat(node: str) -> None:
    """Say that a worker of ``node`` is alive."""
    with contextlib.suppress(redis.RedisError):
        redis_client().set(f"mh:worker:{node}", str(time.time()), ex=WORKER_TTL)


def worker_gone(node: str) -> None:
    """Say that the worker of ``node`` has ended."""
    with contextlib.suppress(redis.RedisError):
        redis_client().delete(f"mh:worker:{node}")


def worker_alive(node: str) -> bool:
    """Return whether a worker of ``node`` was heard of in the last ``WORKER_TTL`` seconds."""
    try:
        return bool(redis_client().exists(f"mh:worker:{node}"))
    except redis.RedisError:
        return False


def worker_wake(node: str) -> None:
    """Tell the worker of ``node`` that there is work; it looks for itself once a second as well."""
    try:
        current_app.send_task(
            "backends.run_operations", args=[node], queue=f"gpu.{node}", ignore_result=True
        )
    except (kombu.exceptions.OperationalError, redis.RedisError, OSError) as exc:
        logger.debug("worker not woken: %s", exc)


def broker_alive() -> bool:
    """Return whether the broker answers."""
    try:
        return bool(redis_client().ping())
    except redis.RedisError:
        return False
