"""OpenAI's API: ``/v1/models``, ``/v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``, ``/v1/responses``.

Requests are passed on with as little change as can be, and answers unchanged; responses are translated to chats. Once a stream has begun
an error is a frame ``data: {"error": {…}}``, and no ``[DONE]`` follows.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from accounts.actors import Actor
from accounts.errors import MhError, NotFound
from accounts.requests import actor_of, authenticate
from router import services
from router.http import json_body, methods
from router.providers.openai_compatible import EMBEDDINGS_PATH
from router.responses_translation import OpenAIResponse, ResponseWriter, chat_fields
from router.schemas import (
    ChatRequest,
    OpenAIChat,
    OpenAICompletion,
    OpenAIEmbedding,
    OpenAISampling,
    parse,
)
from router.services import Admitted, OpenAICall
from router.streams import EventStream, Stream

PATHS = (
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/responses",
)


@methods("GET")
async def models(request: HttpRequest) -> HttpResponseBase:
    """List every name that ``model`` may have."""
    actor = await authenticate(request, "v1")
    cards = await services.models_list(actor=actor)
    return JsonResponse({"object": "list", "data": cards})


@methods("GET")
async def model(request: HttpRequest, model_id: str) -> HttpResponseBase:
    """Return one of the names."""
    actor = await authenticate(request, "v1")
    for card in await services.models_list(actor=actor):
        if card["id"] == model_id:
            return JsonResponse(card)
    raise NotFound(
        f"There is no model {model_id[:120]!r}. GET /v1/models lists what there is.",
        code="model_not_found",
        param="model",
    )


@methods("POST")
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """Answer a chat completion."""
    return await _completion(request, OpenAIChat, "/v1/chat/completions")


@methods("POST")
async def completions(request: HttpRequest) -> HttpResponseBase:
    """Answer a completion of a plain prompt."""
    return await _completion(request, OpenAICompletion, "/v1/completions")


@methods("POST")
async def embeddings(request: HttpRequest) -> HttpResponseBase:
    """Answer with a vector for each text."""

    def read() -> OpenAICall:
        raw, data = json_body(request)
        parse(OpenAIEmbedding, data, always_400=True)
        return OpenAICall(EMBEDDINGS_PATH, raw, data)

    admitted = await services.admit(lambda came: actor_of(request, "v1", asked=came), read)
    answer = await services.relay_complete(admitted)
    return HttpResponse(answer, content_type="application/json")


@methods("POST")
async def responses(request: HttpRequest) -> HttpResponseBase:
    """Answer a request of the Responses API, as a chat."""
    asked: list[OpenAIResponse] = []

    def read() -> ChatRequest:
        asked.append(parse(OpenAIResponse, json_body(request)[1], always_400=True))
        return parse(ChatRequest, chat_fields(asked[0]), always_400=True)

    admitted = await services.admit(lambda came: actor_of(request, "v1", asked=came), read)
    writer = ResponseWriter(asked[0], admitted.waiting.request_id)
    if not admitted.asked.stream:
        return JsonResponse(writer.whole(await services.chat_admitted_complete(admitted)))
    stream = Stream(_response_frames(admitted, writer), on_error=writer.failed)
    await stream.begin()
    return EventStream(stream)


async def _response_frames(
    admitted: Admitted[ChatRequest], writer: ResponseWriter
) -> AsyncGenerator[bytes, None]:
    async with aclosing(services.chat_admitted(admitted)) as events:
        async for event in events:
            if frames := writer.feed(event):
                yield b"".join(frames)


async def unknown(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Answer for every other path under ``/v1``."""
    del request
    raise NotFound(
        f"There is no /v1/{rest[:120]}. There is: {', '.join(PATHS)}.", code="path_not_found"
    )


async def _completion(
    request: HttpRequest, schema: type[OpenAISampling], path: str
) -> HttpResponseBase:
    def read() -> OpenAICall:
        raw, data = json_body(request)
        parse(schema, data, always_400=True)
        return OpenAICall(path, raw, data)

    admitted = await services.admit(lambda came: actor_of(request, "v1", asked=came), read)
    if not admitted.asked.fields.get("stream"):
        answer = await services.relay_complete(admitted)
        return HttpResponse(answer, content_type="application/json")
    stream = Stream(
        services.relay(admitted), on_error=lambda error: _error_frame(error, admitted.actor)
    )
    await stream.begin()
    return EventStream(stream)


def _error_frame(error: MhError, actor: Actor) -> bytes:
    body: Mapping[str, Any] = {"error": error.body(actor.request_id)}
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()
