"""The database from async code: given back before something long, a stream of tokens for one.

A server's requests that wait for an engine share a few threads, each with a connection of its own that
it keeps: however many streams there are, no more connections are open. Elsewhere (tests, commands) a
call runs as any ``sync_to_async`` does, and its connection is closed after it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, ParamSpec, TypeVar

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import atomic

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


def keep_connections() -> None:
    """Let this thread's connections live; each is checked before it is used again."""
    for alias in connections:
        connection = connections[alias]
        connection.settings_dict = {
            **connection.settings_dict,
            "CONN_MAX_AGE": _CONNECTION_SECONDS,
            "CONN_HEALTH_CHECKS": True,
        }


class NotKnownError(Exception):
    """What is asked for has to be read, and this is no place to read."""


#: Set where nothing may be read: on the event loop.
_known_only: ContextVar["_Look | None"] = ContextVar("mh_known_only", default=None)


class _Watch:
    """Says whether anything was written to the database, without asking it for anything.

    SQLite counts the commits of others for each connection, in memory that all processes share: this one
    never writes, so every commit counts. It takes microseconds, and waits for nobody.
    Source: SQLite's documentation, "PRAGMA data_version".
    """

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        #: A version, and an older one that means the same.
        self._same = (-1, -1)

    def open(self) -> None:
        """Begin, where the database is SQLite's; elsewhere nothing is ever known to be unchanged."""
        settings = connections["default"].settings_dict
        if not settings["ENGINE"].endswith("sqlite3"):
            return
        with suppress(sqlite3.Error):
            self._connection = sqlite3.connect(
                str(settings["NAME"]), timeout=0, isolation_level=None, check_same_thread=False
            )

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def version(self) -> int | None:
        """Return a number that is another one after every commit; None where nobody can tell."""
        connection = self._connection
        if connection is None:
            return None
        with self._lock, suppress(sqlite3.Error):
            version = int(connection.execute("PRAGMA data_version").fetchone()[0])
            return self._same[1] if version == self._same[0] else version
        return None

    def same(self, later: int, earlier: int) -> None:
        """Take ``later`` for ``earlier``: what was written between them is nobody's business."""
        self._same = (later, earlier)


_watch: Final = _Watch()


class _Look(NamedTuple):
    """One look at what is known: the database is asked once whether that still holds."""

    version: int | None


def version() -> int | None:
    """Return a number that is another one after every commit of anybody; None where nobody can tell."""
    return _watch.version()


@contextmanager
def apart() -> Iterator[None]:
    """Write in a transaction that touches nothing that ``SharedReads`` are for: what they know stays known.

    Nobody else can commit from its beginning to its end (SQLite's IMMEDIATE); whether somebody did right
    after it, SQLite tells the connection that wrote: its own commits do not count for it.
    """
    connection = connections["default"]
    if _watch.version() is None or connection.in_atomic_block:
        with atomic():
            yield
        return
    with atomic():
        before, others = _watch.version(), _commits_of_others(connection)
        yield
    after = _watch.version()
    if before is not None and after is not None and _commits_of_others(connection) == others:
        _watch.same(after, before)


def _commits_of_others(connection: BaseDatabaseWrapper) -> int:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA data_version")
        return int(cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class _Read(Generic[_T]):
    begin: float
    #: Of the database, before it was read.
    version: int | None
    found: _T


class SharedReads(Generic[_T]):
    """Reads of the same thing, one for many who ask, and none older than the question.

    A read that began after somebody asked tells them what their own would: when requests queue for the
    pool, the first read answers all that were queued. So does one after which nothing has been written to
    the database: in a server that knows (SQLite), what was read is used until the next commit of anybody.
    """

    def __init__(self, is_good: Callable[[_T], bool] = lambda _: True) -> None:
        """``is_good`` says whether something read a while ago is as good as new, time itself apart."""
        self._last: dict[Hashable, _Read[_T]] = {}
        self._is_good = is_good

    def get(self, key: Hashable, asked: float, read: Callable[[], _T]) -> _T:
        """Return what ``read`` returned to the last caller, if that is what it would return now; else call it.

        Args:
            key: what is read.
            asked: when the caller's request came (``time.perf_counter``).
            read: reads it; what it raises is not shared.

        Raises:
            NotKnownError: it has to be read, inside ``known``.
        """
        last = self._last.get(key)
        look = _known_only.get()
        version = _watch.version() if look is None else look.version
        if last is not None:
            unchanged = version is not None and last.version == version
            if last.begin >= asked or (unchanged and self._is_good(last.found)):
                return last.found
        reading()
        begin = time.perf_counter()
        found = read()
        if len(self._last) >= _SHARED_MAX:
            self._last.clear()
        self._last[key] = _Read(begin, version, found)
        return found


def reading() -> None:
    """Say that what follows needs the database.

    Raises:
        NotKnownError: inside ``known``.
    """
    if _known_only.get() is not None:
        raise NotKnownError


def known(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Return what ``function`` returns, called here, on the event loop: for what needs no database now.

    Raises:
        NotKnownError: it does; call it ``in_database``. It must be harmless to have begun it.
    """
    token = _known_only.set(_Look(_watch.version()))
    try:
        return function(*args, **kwargs)
    except SynchronousOnlyOperation as exc:
        raise NotKnownError from exc
    finally:
        _known_only.reset(token)


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
                ThreadPoolExecutor(THREADS, "database", initializer=keep_connections),
                ThreadPoolExecutor(1, "around-requests"),
            )
        )
        _watch.open()


def pool_stop() -> None:
    """Stop the pool and close its connections; they are lost with their threads."""
    while _pools:
        pool = _pools.pop()
        pool.database.shutdown()
        pool.around.shutdown()
    _watch.close()


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
