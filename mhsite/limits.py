"""How much of a body the site receives, enforced before Django spools it to memory and disk."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.conf import settings

from accounts.requests import request_id_new
from mhsite import errors

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]


class _TooLargeError(Exception):
    """More came than may come; only this module sees it."""


def body_limit(app: Application) -> Application:
    """Wrap an ASGI application: a body above ``MH_MAX_BODY_BYTES`` is answered with 413.

    By its announced length before a byte is received; without one (chunked), as soon as it is over.
    """

    async def limited(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        limit: int = settings.MH_MAX_BODY_BYTES
        if _announced(scope) > limit:
            await _refuse(scope, send)
            return
        try:
            await app(scope, _counted(receive, limit), send)
        except _TooLargeError:
            # Django reads the whole body before it answers, so nothing has been sent yet.
            await _refuse(scope, send)

    return limited


def _announced(scope: Any) -> int:
    for name, value in scope["headers"]:
        if name.lower() == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _TooLargeError
        return message

    return counted


async def _refuse(scope: Any, send: Send) -> None:
    request_id = request_id_new()
    error = errors.error_body(str(scope.get("path", "")), errors.too_large().body(request_id))
    body = json.dumps(error).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-request-id", request_id.encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
