"""From the end of a request to the database, in batches, off the hot path.

``record`` appends to a queue of this process and returns. A thread of the process writes what is there
once a second, or as soon as ``BATCH`` records wait; a transaction holds a whole batch, its sums and
nothing else. A thread, because it is the same under every server and does not stand still when an event
loop does; the process and not a stream of the broker's, because our broker keeps nothing on disk: the
database is the truth, and a record that went by the broker would be lost with it.

A database that is away loses nothing that ``MOST`` records can hold: a batch stays until it is written,
and one whose commit was in doubt is not written twice (``UsageRecord.uid``). When the process ends by
itself, by SIGTERM or by SIGINT, what is left is written at its exit, after the server has ended its
requests, or left them: those are recorded as cancelled. The three servers have nothing else in common; and
granian kills a worker whose requests do not end in time, so it is told before (``close_in``). A process killed with SIGKILL loses the requests under way and what had ended in its last second, no more.
"""

import atexit
import logging
import multiprocessing.util
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from django.db import DatabaseError

from accounts.ids import unique_uuid

logger = logging.getLogger(__name__)

#: Seconds between two writes, and records that do not wait for the next.
EVERY: Final = 1.0
BATCH: Final = 200
#: Records kept while they cannot be written; about 50 MB.
MOST: Final = 100_000
#: Longest pause in seconds between two tries to reach a database that is away.
_PAUSE_MOST: Final = 15.0


def _now() -> datetime:
    return datetime.now(tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request that has ended; fields as in ``router.models.UsageRecord``."""

    user_id: int | None
    user_name: str
    surface: str
    kind: str
    #: ``done``, ``cancelled``, or the code of an error.
    outcome: str
    total_ms: float
    at: datetime = field(default_factory=_now)
    token_id: str = ""
    request_id: str = ""
    role: str = ""
    entry: str = ""
    provider: str = ""
    backend: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None
    estimated: bool = False
    queued_ms: float | None = None
    ttft_ms: float | None = None
    attempts: int = 1
    uid: uuid.UUID = field(default_factory=unique_uuid)


def _write(batch: Sequence[Record]) -> None:
    # Imported late: a server asks for ``start`` before Django is set up.
    from router.usage import storing

    storing.write(batch)


class Open(Protocol):
    """A request that is under way."""

    def end(self) -> None:
        """Record it as it is now, if it is not recorded yet."""


class Recorder:
    """The queue of one process, and the thread that empties it."""

    def __init__(
        self,
        write: Callable[[Sequence[Record]], None] = _write,
        *,
        every: float = EVERY,
        most: int = MOST,
    ) -> None:
        """Say what writes a batch: all of it or, raising, nothing."""
        self._write, self._every, self._most = write, every, most
        self._waiting: deque[Record] = deque()
        self._some, self._many = threading.Event(), threading.Event()
        self._writing = threading.Lock()
        self._lost = 0
        #: Requests under way.
        self.under_way: set[Open] = set()
        self._thread: threading.Thread | None = None

    def record(self, record: Record) -> None:
        """Take a record; never waits, never raises."""
        if len(self._waiting) >= self._most:
            self._lost += 1
            return
        self._waiting.append(record)
        if not self._some.is_set():
            self._some.set()
        if len(self._waiting) >= BATCH and not self._many.is_set():
            self._many.set()

    def start(self) -> None:
        """Begin to write, and see to it that nothing is left at the end of the process."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        # A process that multiprocessing has forked leaves without ``atexit``.
        multiprocessing.util.Finalize(None, self.close, exitpriority=1)

    def flush(self) -> bool:
        """Write all there is; False where something is left because the database is away."""
        with self._writing:
            while batch := self._take():
                try:
                    self._write(batch)
                except DatabaseError as exc:
                    self._waiting.extendleft(reversed(batch))
                    logger.warning("Usage is not written now, and kept: %s", exc)
                    return False
                except Exception:  # the boundary of a thread: usage must go on being written
                    logger.exception("%d records of usage could not be written", len(batch))
        if self._lost:
            lost, self._lost = self._lost, 0
            logger.error("%d records of usage did not fit into memory and are lost", lost)
        return True

    def _take(self) -> list[Record]:
        return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    def _run(self) -> None:
        # Late, as ``storing``.
        from accounts import database

        database.keep_connections()
        pause = self._every
        while True:
            self._some.wait()
            self._some.clear()
            self._many.wait(self._every)
            self._many.clear()
            if self.flush():
                pause = self._every
                continue
            self._some.set()
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_MOST)

    def close(self) -> None:
        """Record what is under way as it is, and write all there is."""
        for request in list(self.under_way):
            request.end()
        if not self.flush():
            logger.error("%d records of usage are lost", len(self._waiting))


_recorder: Final = Recorder()


def record(record: Record) -> None:
    """Keep what a request cost. For any code, async too: it only appends to a queue.

    Call it once for a request, at its end. Written where ``start`` was called, or by ``flush``.
    """
    _recorder.record(record)


def begun(request: Open) -> None:
    """Keep an eye on a request, so that it is recorded even where its server forgets it when it stops."""
    _recorder.under_way.add(request)


def ended(request: Open) -> None:
    """Let go of a request that has recorded itself."""
    _recorder.under_way.discard(request)


def start() -> None:
    """Begin to write in this process. For a server, before its first request."""
    _recorder.start()


def close_in(seconds: float) -> None:
    """Record in ``seconds`` what is under way then. For a server that is killed with its requests."""
    timer = threading.Timer(seconds, _recorder.close)
    timer.daemon = True
    timer.start()


def flush() -> bool:
    """Write what was recorded so far, now; False where the database is away. Not for async code."""
    return _recorder.flush()
