"""Streams to HTTP clients: one task produces, the response consumes.

The task exists because a lease belongs to the task that took it, and because Django may run a view and
send its response in different tasks. When the client leaves, Django closes (or drops) the response,
and that cancels the task, which closes the connection to the engine.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from django.http import StreamingHttpResponse

from accounts.errors import MhError

logger = logging.getLogger(__name__)

#: Bytes produced and not yet taken by the client's connection, above which the engine has to wait.
BUFFER_MAX = 256 * 1024
#: Seconds without a byte after which a comment is sent, so that no proxy takes the connection for dead.
HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": keep-alive\n\n"


def internal_error() -> MhError:
    """Return what a client is told about a fault of ours."""
    return MhError("Something went wrong here; the site's log has the reason.")


class _Pipe:
    """Bytes between the producing task and the consumer, bounded."""

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._quiet = True
        self.ended = False
        self.error: MhError | None = None

    @property
    def filled(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    async def put(self, item: bytes) -> None:
        self._items.append(item)
        self._size += len(item)
        self._quiet = False
        _wake(self._wanted)
        if self._size > BUFFER_MAX:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def end(self, error: MhError | None) -> None:
        self.ended, self.error = True, error
        _wake(self._wanted)

    def take(self) -> bytes:
        """Return everything there is."""
        items = self._items
        data = items[0] if len(items) == 1 else b"".join(items)
        items.clear()
        self._size = 0
        _wake(self._room)
        return data

    async def wait(self) -> None:
        """Return when there is something to take, at the end, or after ``tick`` found nothing new."""
        if self._items or self.ended:
            return
        self._wanted = asyncio.get_running_loop().create_future()
        await self._wanted

    def tick(self) -> None:
        """Wake the consumer if nothing came since the last tick."""
        if self._quiet:
            _wake(self._wanted)
        self._quiet = True


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _produce(source: AsyncGenerator[bytes, None], pipe: _Pipe) -> None:
    error: MhError | None = None
    try:
        async with contextlib.aclosing(source):
            async for item in source:
                await pipe.put(item)
    except MhError as exc:
        error = exc
    except Exception:  # the boundary: the client must hear of it, whatever it is
        logger.exception("A stream failed")
        error = internal_error()
    finally:
        pipe.end(error)


class Stream:
    """A source of bytes, running in a task of its own until it ends or nobody wants it any more."""

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        *,
        on_error: Callable[[MhError], bytes],
        heartbeat: bytes = HEARTBEAT,
    ) -> None:
        """Start producing.

        Args:
            source: the frames.
            on_error: makes the last frame of a stream that breaks off.
            heartbeat: a frame that says nothing.
        """
        self._heartbeat = heartbeat
        self._pipe = _Pipe()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(_produce(source, self._pipe))
        self._on_error = on_error
        self._ticker: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Wait for the first bytes, at most ``HEARTBEAT_SECONDS``: until then an error has a status.

        Raises:
            MhError: it ended in an error before there was anything to send.
        """
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._pipe.wait()
        except BaseException:
            self.cancel()
            raise
        pipe = self._pipe
        if pipe.ended and pipe.error is not None and not pipe.filled:
            raise pipe.error

    async def bytes(self) -> AsyncIterator[bytes]:
        """Yield what there is, as it comes, with heartbeats; last, if it broke off, the error's frame."""
        pipe = self._pipe
        self._ticker = self._loop.call_later(HEARTBEAT_SECONDS, self._tick)
        try:
            while True:
                await pipe.wait()
                if data := pipe.take():
                    yield data
                elif pipe.ended:
                    break
                else:
                    yield self._heartbeat
            if pipe.error is not None:
                yield self._on_error(pipe.error)
        finally:
            if self._ticker is not None:
                self._ticker.cancel()
            self._task.cancel()

    def _tick(self) -> None:
        self._pipe.tick()
        self._ticker = self._loop.call_later(HEARTBEAT_SECONDS, self._tick)

    def cancel(self) -> None:
        """Stop producing. May be called from any thread, at any time, more than once."""
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    def __del__(self) -> None:
        """Stop producing when the response was dropped without being sent or closed."""
        self.cancel()


class EventStream(StreamingHttpResponse):
    """A response of server-sent events, or of other frames that come as they are made."""

    def __init__(
        self, stream: Stream, content_type: str = "text/event-stream; charset=utf-8", **kwargs: Any
    ) -> None:
        body = stream.bytes()
        super().__init__(body, content_type=content_type, **kwargs)
        self["Cache-Control"] = "no-cache"
        self["X-Accel-Buffering"] = "no"
        self._stream, self._body = stream, body

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the generator itself: Django's wrappers would not close it, and cost time per token."""
        return self._body

    def close(self) -> None:
        """Stop producing, whether or not everything was sent."""
        self._stream.cancel()
        super().close()
