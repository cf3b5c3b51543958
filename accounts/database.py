"""The database from async code: given back before something long, a stream of tokens for one.

A server's requests that wait for an engine share a few threads, each with a connection of its own that
it keeps: however many streams there are, no more connections are open. Elsewhere (tests, commands) a
call runs as any ``sync_to_async`` does, and its connection is closed after it.
"""

import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Generic, ParamSpec, TypeVar

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Threads of the pool, and so connections it keeps. What a chat asks takes a few milliseconds.
THREADS: Final = 4
#: Seconds after which a thread of the pool opens its connection anew.
_CONNECTION_SECONDS: Final = 60
#: Results that ``SharedReads`` has at most; they are of use for milliseconds.
_SHARED_MAX: Final = 64


def release() -> None:
    """Close this thread's connections that are due, except inside a transaction.

    ``django.db.close_old_connections`` closes those too, and what was done in the transaction is lost.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def _keep_connections() -> None:
    """Let this thread's connections live; each is checked before it is used again."""
    for alias in connections:
        connection = connections[alias]
        connection.settings_dict = {
            **connection.settings_dict,
            "CONN_MAX_AGE": _CONNECTION_SECONDS,
            "CONN_HEALTH_CHECKS": True,
        }


class SharedReads(Generic[_T]):
    """Reads of the same thing, one for many who ask at once, and none older than the question.

    A read that began after somebody asked tells them what their own would: when requests queue for the
    pool, the first read answers all that were queued. Nothing is kept for those who ask later.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[float, _T]] = {}

    def get(self, key: Hashable, asked: float, read: Callable[[], _T]) -> _T:
        """Return what ``read`` returned to the last caller, if that began after ``asked``; else call it.

        Args:
            key: what is read.
            asked: when the caller's request came (``time.perf_counter``).
            read: reads it; what it raises is not shared.
        """
        last = self._last.get(key)
        if last is not None and last[0] >= asked:
            return last[1]
        begin = time.perf_counter()
        found = read()
        if len(self._last) >= _SHARED_MAX:
            self._last.clear()
        self._last[key] = (begin, found)
        return found


@dataclass(frozen=True, slots=True)
class _Pool:
    #: For what uses the database.
    database: ThreadPoolExecutor
    #: For what Django does around a request: it wants one and the same thread for it.
    around: ThreadPoolExecutor


_pools: list[_Pool] = []


def pool_start() -> None:
    """Start the pool. For a server's process, before its first request."""
    if not _pools:
        _pools.append(
            _Pool(
                ThreadPoolExecutor(THREADS, "database", initializer=_keep_connections),
                ThreadPoolExecutor(1, "around-requests"),
            )
        )


def pool_stop() -> None:
    """Stop the pool and close its connections; they are lost with their threads."""
    while _pools:
        pool = _pools.pop()
        pool.database.shutdown()
        pool.around.shutdown()


def around_request() -> AbstractAsyncContextManager[object]:
    """Return a context for a whole request whose view is async and uses ``in_database``.

    Django would make a thread for it, to send its signals from; with the pool all share one.
    """
    return ThreadSensitiveContext(executor=_pools[0].around) if _pools else nullcontext()


async def in_database(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what ``function`` returns, called on a thread that may use the database.

    No connection is held after it, beyond those of the pool.
    """
    called = (
        sync_to_async(_released, thread_sensitive=False, executor=_pools[0].database)
        if _pools
        else sync_to_async(_released)
    )
    return await called(function, *args, **kwargs)


def _released(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return function(*args, **kwargs)
    finally:
        release()
