"""HTTP/1.1 to an engine on this machine or network, for streams: no more layers than the bytes need.

What arrives goes from the socket through the parser (httptools, in C) to whoever reads, with nothing in
between: that is most of what a proxied token costs in Python. Plain HTTP only; TLS, redirects, proxies and
compression are for ``pool``, whose client is used for everything that is not ``http://``.
Source: RFC 9112.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httptools
from django.conf import settings

from accounts.loops import PerLoop
from router.providers.pool import CONNECT_TIMEOUT, KEEP_IDLE
from router.providers.turns import Turns

#: Bytes that arrived and nobody has taken yet, above which no more are read from the engine.
BUFFER_MAX: Final = 256 * 1024
#: Takes a piece of a body; says whether it takes more.
Take = Callable[[bytes], bool]


class WireError(OSError):
    """The other side closed the connection, or sent what is not HTTP."""


class Exchange(asyncio.Protocol):
    """A connection, and the request that is under way on it.

    ``status`` and ``headers`` (names in lower case) are there once ``head`` has returned.
    """

    def __init__(self, pool: "_Pool") -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser: Any = None
        #: What waits for more; its result is that whoever takes has had enough.
        self._waiter: asyncio.Future[bool] | None = None
        self._take: Take | None = None
        self._chunks: deque[bytes] = deque()
        #: For httptools: keeps a piece of the body.
        self.on_body = self._chunks.append
        #: Bytes that came since the last were taken.
        self._size = 0
        #: Whether more has come than anybody takes; whether it waits for its turn; whether nothing is read.
        self._is_full = self._is_resting = self._is_stopped = False
        self._turns = pool.turns
        self._came = 0.0
        self._has_head = self._is_over = self._stays = False
        self._lost: Exception | None = None
        self._busy = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}

    # What reads.

    async def head(self) -> None:
        """Return when the answer has begun.

        Raises:
            OSError: it never will.
        """
        while not self._has_head:
            if self._lost is not None:
                raise self._lost
            await self._wait()

    async def read(self) -> bytes:
        """Return what has come of the body, at least a byte; ``b""`` at its end.

        Raises:
            OSError: it broke off.
        """
        while not self._chunks:
            if self._is_over:
                return b""
            if self._lost is not None:
                raise self._lost
            await self._wait()
        return self._taken()

    async def pour(self, take: Take) -> bool:
        """Give what comes of the body to ``take``, at once where it arrives: nobody is woken for it.

        Returns:
            True as soon as ``take`` wants no more for now; False at the end of the body.

        Raises:
            OSError: it broke off. What ``take`` raises.
        """
        while True:
            if self._chunks:
                if not take(self._taken()):
                    return True
            elif self._is_over:
                return False
            elif self._lost is not None:
                raise self._lost
            elif await self._wait(take):
                return True

    def _taken(self) -> bytes:
        chunks = self._chunks
        if len(chunks) == 1:
            data = chunks.popleft()
        else:
            data = b"".join(chunks)
            chunks.clear()
        self._size = 0
        if self._is_full:
            self._is_full = False
            self._stop_or_go()
        return data

    # The same by httpx's names.

    @property
    def status_code(self) -> int:
        """HTTP status."""
        return self.status

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Iterate over what comes of the body, as it comes; raises as ``read``."""
        while data := await self.read():
            yield data

    #: Nothing is ever packed: we ask for that.
    aiter_bytes = aiter_raw

    async def aread(self) -> bytes:
        """Return the body; raises as ``read``."""
        return b"".join([data async for data in self.aiter_raw()])

    async def aclose(self) -> None:
        """Do what ``close`` does."""
        self.close()

    async def _wait(self, take: Take | None = None) -> bool:
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        self._take = take
        try:
            return await waiter
        finally:
            self._waiter = self._take = None

    def _wake(self, is_enough: bool = False) -> None:
        waiter = self._waiter
        self._take = None
        if waiter is not None and not waiter.done():
            waiter.set_result(is_enough)

    def _fail(self, exc: Exception) -> None:
        self._take = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc)

    # What sends.

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent on it."""
        return self._lost is None and not self._transport.is_closing()

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer was read."""
        return self._is_over and not self._chunks

    def send(self, request: bytes) -> None:
        """Send a request; nothing else may be under way."""
        self._parser = httptools.HttpResponseParser(self)
        self._chunks.clear()
        self._size = 0
        self._has_head = self._is_over = self._stays = False
        self.status, self.headers = 0, {}
        self._came = 0.0
        self._busy = True
        self._transport.write(request)

    def close(self) -> None:
        """Be done with the answer: keep the connection where it is complete, else close it at once."""
        self._busy = False
        if self._is_over and self._stays and self.is_open:
            self._is_full = self._is_resting = False
            self._stop_or_go()
            self._pool.put(self)
        else:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who reads."""
        if self._lost is None:
            self._lost = exc if isinstance(exc, OSError) else WireError("the connection was closed")
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if not self._busy:
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, UnicodeDecodeError):
            self._lost = self._lost or WireError("this is not HTTP")
            self._transport.abort()
        if self._is_over or self._lost is not None:
            self._wake()
            return
        self._size += len(data)
        take = self._take
        if take is None:
            self._wake()
        elif self._chunks:
            try:
                if not take(self._taken()):
                    self._wake(is_enough=True)
            except Exception as exc:  # noqa: BLE001 - it is for who waits
                self._fail(exc)
        if self._size > BUFFER_MAX and self._chunks and not self._is_full:
            self._is_full = True
            self._stop_or_go()
        since, self._came = self._came, self._loop.time()
        if self._turns.waits(since, self._came, self._go_on):
            self._is_resting = True
            self._stop_or_go()

    def _go_on(self) -> None:
        self._is_resting = False
        self._stop_or_go()

    def _stop_or_go(self) -> None:
        """Read from the engine, unless there is a reason not to."""
        stop = self._is_full or self._is_resting
        if stop is self._is_stopped or self._transport.is_closing():
            return
        self._is_stopped = stop
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close: an answer without a length ends so (RFC 9112, 6.3)."""
        if self._has_head and not self._is_over and self._has_no_length():
            self._is_over = True
        return False

    def _has_no_length(self) -> bool:
        return not {"content-length", "transfer-encoding"} & self.headers.keys()

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note the status; an interim answer (100 to 199) is not the one waited for."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200  # noqa: PLR2004

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self._has_head:
            self._is_over = True
            # After this call the parser has forgotten.
            self._stays = self._parser.should_keep_alive()
        else:
            self.headers = {}


class _Pool:
    """The connections of one event loop to one address."""

    def __init__(self, host: str, port: int, turns: Turns) -> None:
        self._host, self._port = host, port
        self.turns = turns
        self._idle: list[Exchange] = []

    async def take(self) -> Exchange:
        """Return a connection nothing is under way on.

        Raises:
            OSError: there is none, and none can be made. TimeoutError: not within ``CONNECT_TIMEOUT``.
        """
        limit = time.monotonic() - KEEP_IDLE
        while self._idle:
            exchange = self._idle.pop()
            if exchange.idle_since > limit and exchange.is_open:
                return exchange
            exchange.close()
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: Exchange(self), self._host, self._port
            )
        return made

    def put(self, exchange: Exchange) -> None:
        exchange.idle_since = time.monotonic()
        self._idle.append(exchange)


class _Pools:
    """The connections of one event loop, by address, and the turns that their streams are read in."""

    def __init__(self) -> None:
        self._turns = Turns(asyncio.get_running_loop(), settings.MH_STREAM_TURN_MS / 1000)
        self._pools: dict[str, _Pool] = {}

    def pool(self, netloc: str, host: str, port: int) -> _Pool:
        found = self._pools.get(netloc)
        if found is None:
            found = self._pools[netloc] = _Pool(host, port, self._turns)
        return found


_pools: Final = PerLoop(_Pools)


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Exchange:
    """Send a POST request to an ``http://`` address; return when the answer has begun. ``close`` it.

    Raises:
        OSError: it cannot be sent, or no answer came.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    exchange = await _pools.get().pool(parts.netloc, host, port).take()
    try:
        exchange.send(_request(parts.netloc, parts.path, body, headers))
        await exchange.head()
    except BaseException:
        exchange.close()
        raise
    return exchange


def _request(netloc: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {netloc}",
        f"Content-Length: {len(body)}",
        "Accept-Encoding: identity",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1:
        msg = "a header has a line break"
        raise ValueError(msg)
    return head.encode("latin-1") + b"\r\n\r\n" + body
