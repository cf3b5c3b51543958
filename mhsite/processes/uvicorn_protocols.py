"""uvicorn's protocols, with short ways for tokens. Everything else is uvicorn's own.

An ASGI ``send`` is a coroutine, so only a task can send, and waking one for each token costs more than all
else that is done for it. ``router.direct`` does without where the server lets it (``direct.Straight``).
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN

from router.direct import STRAIGHT, Headers

_OK = STATUS_LINE[200]
#: A whole text frame (RFC 6455, 5.2).
_TEXT = 0x81


class _Straight:
    """``direct.Straight``: does what ``RequestResponseCycle.send`` does with the messages of a stream."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._flow = cycle.flow
        self._left: Callable[[], None] | None = None
        #: Goes out with what is written next: each write to a socket costs as much as a dozen small ones at once.
        self._pending = b""
        self.is_quiet = True

    def begin(self, headers: Headers) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.response_started = cycle.chunked_encoding = True
        cycle.waiting_for_100_continue = False
        lines = [_OK, *(b"%b: %b\r\n" % line for line in (*cycle.default_headers, *headers))]
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"transfer-encoding: chunked\r\n\r\n")
        self._pending = b"".join(lines)

    def write(self, piece: bytes, is_last: bool = False) -> bool:
        self.is_quiet = False
        data = b"%b%x\r\n%b\r\n" % (self._pending, len(piece), piece)
        if is_last:
            self._pending = data
            asyncio.get_running_loop().call_soon(self._flush)
        elif not self._cycle.disconnected:
            self._pending = b""
            self._transport.write(data)
        return not self._flow.write_paused

    def _flush(self) -> None:
        pending, self._pending = self._pending, b""
        if pending and not self._cycle.disconnected:
            self._transport.write(pending)

    def end(self) -> None:
        cycle = self._cycle
        if cycle.disconnected:
            return
        self._transport.write(self._pending + b"0\r\n\r\n")
        self._pending = b""
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def on_left(self, left: Callable[[], None]) -> None:
        self._left = left
        # Nothing is heard of a client that nothing is read from; a long body stops that.
        self._flow.resume_reading()
        if self._cycle.disconnected:
            left()

    def lost(self) -> None:
        """Say that the connection is gone."""
        cycle = self._cycle
        if not cycle.response_complete:
            # Of the one that is answered; uvicorn notes it for the last one that came.
            cycle.disconnected = True
            if self._left is not None:
                self._left()


class Http(HttpToolsProtocol):
    """Puts a ``direct.Straight`` into the scope of each request."""

    _straight: _Straight | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._straight = _Straight(cycle)
        cycle.scope[STRAIGHT] = self._straight  # type: ignore[typeddict-unknown-key]
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who answers, too."""
        super().connection_lost(exc)
        if self._straight is not None:
            self._straight.lost()


class WebSocket(WebSocketsSansIOProtocol):
    """Sends texts without making an object of each frame; nothing is compressed (``web``)."""

    async def send(self, message: Any) -> None:
        """Do what uvicorn's own does, in fewer steps for a text on an open socket whose client takes it."""
        text = message.get("text")
        if text is None or not self._is_flowing():
            await super().send(message)
            return
        data = text.encode()
        self.transport.write(_head(len(data)) + data)

    def _is_flowing(self) -> bool:
        return (
            self.handshake_complete
            and not self.close_sent
            and not self.disconnected
            and self.conn.state is OPEN
            and self.writable.is_set()
        )


def _head(length: int) -> bytes:
    if length < 126:  # noqa: PLR2004 - lengths from here on have a field of their own
        return bytes((_TEXT, length))
    if length < 65536:  # noqa: PLR2004
        return struct.pack("!BBH", _TEXT, 126, length)
    return struct.pack("!BBQ", _TEXT, 127, length)
