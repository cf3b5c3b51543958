"""OpenAI's API: ``/v1/models``, ``/v1/chat/completions``, ``/v1/completions``.

Requests are passed on with as little change as can be, and answers unchanged. Once a stream has begun
an error is a frame ``data: {"error": {…}}``, and no ``[DONE]`` follows.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from accounts.actors import Actor
from accounts.errors import MhError, NotFound
from accounts.requests import actor_of, authenticate
from router import services
from router.http import json_body, methods
from router.schemas import OpenAIChat, OpenAICompletion, OpenAISampling, parse
from router.services import OpenAICall
from router.streams import EventStream, Stream

PATHS = (
    "GET /v1/models",
    "GET /v1/models/{id}",
    "POST /v1/chat/completions",
    "POST /v1/completions",
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
