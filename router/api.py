"""``POST /api/chat``: JSON, or server-sent events with ``"stream": true``."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from django.http import HttpRequest, HttpResponseBase, JsonResponse

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.requests import authenticate
from router import services
from router.events import ChatEvent, ErrorEvent
from router.http import json_body, methods
from router.schemas import ChatRequest, parse
from router.streams import EventStream, Stream


@methods("POST")
async def chat(request: HttpRequest) -> HttpResponseBase:
    """Answer a chat."""
    actor = await authenticate(request, "rest")
    await services.chat_allowed(actor)
    _, data = json_body(request)
    wanted = parse(ChatRequest, data)
    if not wanted.stream:
        return JsonResponse(await services.chat_complete(actor=actor, request=wanted))
    stream = Stream(_frames(actor, wanted), on_error=lambda error: _error_frame(error, actor))
    await stream.begin()
    return EventStream(stream)


async def _frames(actor: Actor, wanted: ChatRequest) -> AsyncGenerator[bytes, None]:
    async with aclosing(services.chat(actor=actor, request=wanted)) as events:
        async for event in events:
            yield _frame(event)


def _frame(event: ChatEvent) -> bytes:
    # ASCII: half of a surrogate pair, which an engine may send, has no UTF-8.
    return b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode()


def _error_frame(error: MhError, actor: Actor) -> bytes:
    return _frame(ErrorEvent(type="error", error=error.body(actor.request_id)))
