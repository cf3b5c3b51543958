"""``POST /v1/chat/completions`` and ``/v1/completions`` as plain ASGI: what programs send all day, with a bearer token.

Django's request, its middleware and its response cost as much as a whole stream. Here one task reads the
body, asks ``services`` as the views in ``v1`` do, and sends each piece of the answer as it comes. Whatever is
not that plain request (a session, a page of another site, a redirect to HTTPS) goes on to the views.

When the client leaves, the task is cancelled, which closes the connection to the engine.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from accounts import database
from accounts.access import settle
from accounts.actors import Actor
from accounts.errors import MhError
from accounts.requests import actor_of_bearer, current_request_id
from router import services, streams
from router.http import json_object
from router.schemas import OpenAIChat, OpenAICompletion, OpenAISampling, parse
from router.services import OpenAICall, Write
from router.streams import HEARTBEAT, internal_error

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: Paths that are answered here, and what their bodies must be.
SCHEMAS: Final[Mapping[str, type[OpenAISampling]]] = {
    "/v1/chat/completions": OpenAIChat,
    "/v1/completions": OpenAICompletion,
}
#: Bytes of a body that is parsed between two tokens of others.
_LONG: Final = 64 * 1024
#: The scope's key of a ``Straight``, where the server has one.
STRAIGHT: Final = "mh.straight"
_STREAM_HEADERS: Final[Headers] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Straight(Protocol):
    """A server's way to answer one request without messages: no coroutine, and no task that waits for more."""

    #: Set to True by who looks now and then whether anything is written; False as soon as something is.
    is_quiet: bool

    def begin(self, headers: Headers) -> None:
        """Begin an answer with status 200, in pieces. It goes out with the first of them."""

    def write(self, piece: bytes, is_last: bool = False) -> bool:
        """Send a piece at once; what is most likely the last, with the end, if that comes in this turn of the loop.

        Returns:
            False: no more, until an empty message has gone through, which waits for room.
        """

    def end(self) -> None:
        """End the answer."""

    def on_left(self, left: Callable[[], None]) -> None:
        """Have ``left`` called when the client leaves before the end."""


class _LeftError(Exception):
    """The client left before it had sent everything."""


async def answer(
    scope: Any,
    receive: Receive,
    send: Send,
    *,
    headers: Headers,
    refusal: Callable[[MhError], tuple[int, Headers, bytes]],
) -> None:
    """Answer one request.

    Args:
        scope: of a POST to one of ``SCHEMAS``, with a bearer token.
        receive: of the server.
        send: of the server.
        headers: of every answer.
        refusal: makes an error's status, own headers and body.
    """
    straight = scope.get(STRAIGHT)
    reply = _Reply(send, headers) if straight is None else _StraightReply(send, headers, straight)
    try:
        raw = await _body(receive)
    except _LeftError:
        return
    task = asyncio.current_task()
    reply.watch(receive, task)
    try:
        await _answer(scope, raw, reply)
    except asyncio.CancelledError:
        if not reply.left or task is None:
            raise
        task.uncancel()
    except MhError as exc:
        await database.in_database(settle, exc)
        await reply.fail(exc, refusal)
    except Exception:  # the boundary: the client must hear of it, whatever it is
        logger.exception("A request failed")
        await reply.fail(internal_error(), refusal)
    finally:
        reply.close()


async def _body(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        return bytes(message.get("body", b""))
    pieces: list[bytes] = []
    while message["type"] == "http.request":
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()
    raise _LeftError


async def _answer(scope: Any, raw: bytes, reply: "_Reply") -> None:
    path = scope["path"]
    found = {name: value for name, value in scope["headers"] if name in _WANTED}
    token = found[b"authorization"].decode("latin-1")
    kind = found.get(b"content-type", b"").decode("latin-1")
    address = scope["client"][0] if scope.get("client") else ""

    def who(came: float) -> Actor:
        return actor_of_bearer(token, address, "v1", asked=came)

    def read() -> OpenAICall:
        if len(raw) > _LONG:
            # Parsing it, and the images in it, is for a thread: everybody's tokens would wait.
            database.reading()
        data = json_object(raw, kind)
        parse(SCHEMAS[path], data, always_400=True)
        return OpenAICall(path, raw, data)

    admitted = await services.admit(who, read)
    if admitted.asked.fields.get("stream"):
        await reply.stream(services.relay(admitted, reply.write))
    else:
        await reply.whole(await services.relay_complete(admitted))


_WANTED: Final = frozenset({b"authorization", b"content-type"})


class _Reply:
    """What one client gets."""

    #: Sends a piece at once; None where the server has nothing for that.
    write: Write | None = None

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send = send
        self._headers = headers
        self._loop = asyncio.get_running_loop()
        self._has_begun = self._is_over = False
        #: Whether nothing has been sent since the last look, and nothing is being sent.
        self._is_quiet = True
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        #: Whether the client has gone.
        self.left = False

    def watch(self, receive: Receive, task: "asyncio.Task[Any] | None") -> None:
        """Cancel ``task`` when the client leaves."""

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._leave(task)

        self._watch = asyncio.create_task(watch())

    def _leave(self, task: "asyncio.Task[Any] | None") -> None:
        if task is not None and not self._is_over:
            self.left = True
            task.cancel()

    async def whole(self, body: bytes) -> None:
        """Send an answer that is not streamed."""
        await self._all(200, [(b"content-type", b"application/json")], body)

    async def stream(self, source: AsyncGenerator[bytes, None]) -> None:
        """Send what ``source`` yields, as it comes; a comment when nothing does for long."""
        self._timer = self._loop.call_later(streams.HEARTBEAT_SECONDS, self._tick)
        async with contextlib.aclosing(source):
            async for piece in source:
                self._is_quiet = False
                if self._beat is not None:
                    await self._beat
                if not self._has_begun:
                    await self._begin()
                await self._piece(piece)
        await self._end(b"")

    async def fail(self, error: MhError, refusal: Callable[[MhError], Any]) -> None:
        """Say that there is no answer, or that what was sent is not all of it."""
        if self._is_over:
            return
        if self._beat is not None:
            await self._beat
        if self._has_begun:
            body = {"error": error.body(current_request_id())}
            await self._end(b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode())
        else:
            await self._all(*refusal(error))

    def close(self) -> None:
        """Stop what runs beside the answer."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._beat, self._watch):
            if task is not None:
                task.cancel()

    async def _begin(self) -> None:
        self._has_begun = True
        headers = [*_STREAM_HEADERS, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _piece(self, piece: bytes) -> None:
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _end(self, last: bytes) -> None:
        self.close()
        if not self._has_begun:
            await self._begin()
        self._is_over = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _all(self, status: int, headers: Headers, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        self.close()
        self._has_begun = self._is_over = True
        start = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, length, *self._headers],
        }
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _tick(self) -> None:
        """Send a comment if nothing was sent since the last look."""
        if self._is_silent() and self._beat is None:
            self._beat = self._loop.create_task(self._heartbeat())
        self._timer = self._loop.call_later(streams.HEARTBEAT_SECONDS, self._tick)

    def _is_silent(self) -> bool:
        """Return whether nothing was sent since the last look."""
        was_quiet, self._is_quiet = self._is_quiet, True
        return was_quiet

    async def _heartbeat(self) -> None:
        try:
            if not self._has_begun:
                await self._begin()
            await self._piece(HEARTBEAT)
        finally:
            self._beat = None


class _StraightReply(_Reply):
    """The same, on a server with a ``Straight``."""

    def __init__(self, send: Send, headers: Headers, straight: Straight) -> None:
        super().__init__(send, headers)
        self._straight = straight
        self.write = straight.write

    def watch(self, receive: Receive, task: "asyncio.Task[Any] | None") -> None:
        del receive
        self._straight.on_left(lambda: self._leave(task))

    def _is_silent(self) -> bool:
        was_quiet, self._straight.is_quiet = self._straight.is_quiet, True
        return super()._is_silent() and was_quiet

    async def _begin(self) -> None:
        self._has_begun = True
        self._straight.begin([*_STREAM_HEADERS, *self._headers])

    async def _piece(self, piece: bytes) -> None:
        # An empty one waits for room.
        if not piece or not self._straight.write(piece):
            await super()._piece(b"")

    async def _end(self, last: bytes) -> None:
        self.close()
        if not self._has_begun:
            await self._begin()
        self._is_over = True
        if last:
            self._straight.write(last, is_last=True)
        self._straight.end()
