"""uvicorn's HTTP, with one more way to send: a piece of a streamed answer at once, with no message around it.

An ASGI ``send`` is a coroutine, so only a task can send, and waking one for each token costs more than all
else that is done for it. ``router.direct`` does without where the server lets it (``direct.WRITE``).
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from router.direct import WRITE


class Protocol(HttpToolsProtocol):
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
