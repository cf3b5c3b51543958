"""uvicorn's protocols, with short ways for tokens. Everything else is uvicorn's own.

An ASGI ``send`` is a coroutine, so only a task can send, and waking one for each token costs more than all
else that is done for it. ``router.direct`` does without where the server lets it (``direct.WRITE``).
"""

import struct
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import OPEN

from router.direct import WRITE

#: A whole text frame (RFC 6455, 5.2).
_TEXT = 0x81


class Http(HttpToolsProtocol):
    """Puts ``direct.WRITE`` into the scope of each request."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        transport, flow = self.transport, self.flow

        def write(piece: bytes) -> bool:
            """Do what ``RequestResponseCycle.send`` does with a piece of a chunked answer that has begun."""
            if not cycle.disconnected:
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return not flow.write_paused

        cycle.scope[WRITE] = write  # type: ignore[typeddict-unknown-key]
        super()._start_asgi_task(cycle, app)


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
