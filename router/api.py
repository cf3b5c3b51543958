"""``POST /api/chat``: JSON, or server-sent events with ``"stream": true``."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from django.http import HttpRequest, HttpResponseBase, JsonResponse

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.requests import actor_of
from router import services
from router.events import ChatEvent, ErrorEvent
from router.http import json_body, methods
from router.schemas import ChatRequest, parse
from router.services import Admitted
from router.streams import EventStream, Stream


@methods("POST")
async def chat(request: HttpRequest) -> HttpResponseBase:
    """Answer a chat."""
    admitted = await services.admit(
        lambda came: actor_of(request, asked=came),
        lambda: parse(ChatRequest, json_body(request)[1]),
    )
    if not admitted.asked.stream:
        return JsonResponse(await services.chat_admitted_complete(admitted))
    stream = Stream(_frames(admitted), on_error=lambda error: _error_frame(error, admitted.actor))
    await stream.begin()
    return EventStream(stream)


async def _frames(admitted: Admitted[ChatRequest]) -> AsyncGenerator[bytes, None]:
    async with aclosing(services.chat_admitted(admitted)) as events:
        async for event in events:
            yield _frame(event)


def _frame(event: ChatEvent) -> bytes:
    # ASCII: half of a surrogate pair, which an engine may send, has no UTF-8.
    return b"data: %b\n\n" % json.dumps(event, separators=(",", ":")).encode()


def _error_frame(error: MhError, actor: Actor) -> bytes:
    return _frame(ErrorEvent(type="error", error=error.body(actor.request_id)))
