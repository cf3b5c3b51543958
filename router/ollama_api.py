"""Ollama's API under ``/ollama/``, so that its clients can point here, whichever engine answers.

Names are those of ``/v1/models``: served models, registry ids, ``role:`` and a role, each with or without
``:latest``. Answers and errors are as Ollama's: lines of JSON, and ``{"error": "…"}`` (``mhsite.errors``
gives errors that shape); the whole site's rules hold: sign in, wait while an engine starts.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, TypeVar

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from accounts.actors import Actor
from accounts.errors import InvalidRequest, MhError, NotFound
from accounts.permissions import Permission
from accounts.requests import actor_of, authenticate
from audit.access import arequire
from router import ollama_frames, services
from router.errors import NotSupported, UnknownRoute
from router.http import json_body, methods
from router.ollama_frames import Lines, error_line
from router.ollama_requests import (
    Asked,
    OllamaEmbed,
    OllamaShow,
    chat_asked,
    generate_asked,
    otherwise,
    spelled,
)
from router.schemas import ChatRequest, parse
from router.services import Admitted, OpenAICall
from router.streams import EventStream, Stream

_Answer = TypeVar("_Answer")

NDJSON: Final = "application/x-ndjson"
PATHS: Final = "chat, generate, embed, embeddings, tags, show, ps, version"
#: What is done elsewhere here, and where.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "pull": "Models are downloaded by the site's owner: mh ollama pull MODEL, or POST"
    " /api/llm-backend/ollama/models.",
    "push": "Models are not published from here. Use Ollama itself on the machine that has them.",
    "delete": "Models are deleted by the site's owner: mh ollama rm MODEL, or DELETE"
    " /api/llm-backend/ollama/models/MODEL.",
    "create": "Models are not made here. Use Ollama itself, or give one a name with options: mh model add.",
    "copy": "Models are not copied here. Give one another name with: mh model add.",
    "blobs": "Models are not made here. Use Ollama itself on the machine that has them.",
}


@methods("GET", "HEAD")
async def root(request: HttpRequest) -> HttpResponseBase:
    """Say what Ollama says to somebody who looks whether it is there."""
    del request
    return HttpResponse("Ollama is running", content_type="text/plain; charset=utf-8")


@methods("GET", "HEAD")
async def version(request: HttpRequest) -> HttpResponseBase:
    """Return which Ollama's API this is."""
    await _chatter(request)
    return JsonResponse({"version": ollama_frames.API_VERSION})


@methods("GET", "HEAD")
async def tags(request: HttpRequest) -> HttpResponseBase:
    """List every name that ``model`` may have."""
    cards = await services.models_list(actor=await authenticate(request, "ollama"))
    models = [ollama_frames.tag(card["id"], card["owned_by"]) for card in cards]
    return JsonResponse({"models": models})


@methods("GET")
async def ps(request: HttpRequest) -> HttpResponseBase:
    """List what serves now."""
    found = await services.models_loaded(who=lambda: actor_of(request, "ollama"))
    models = [ollama_frames.loaded(item.name, item.owner, item.context_length) for item in found]
    return JsonResponse({"models": models})


@methods("POST")
async def show(request: HttpRequest) -> HttpResponseBase:
    """Say what a name stands for."""

    def read(other: str | None = None) -> str:
        body = parse(OllamaShow, _body(request), always_400=True)
        name = other or body.model or body.name
        if not name:
            raise InvalidRequest("model is required", code="missing_field", param="model")
        return spelled(name)

    item = await _tolerant(
        lambda other: services.model_show(
            who=lambda: actor_of(request, "ollama"), read=lambda: read(other)
        ),
        read,
    )
    return JsonResponse(
        ollama_frames.shown(item.name, item.owner, item.capabilities, item.context_length)
    )


@methods("POST")
async def chat(request: HttpRequest) -> HttpResponseBase:
    """Answer a chat."""
    return await _answer(request, chat_asked, chat=True)


@methods("POST")
async def generate(request: HttpRequest) -> HttpResponseBase:
    """Answer a prompt, as a chat of one message."""
    return await _answer(request, generate_asked, chat=False)


@methods("POST")
async def embed(request: HttpRequest) -> HttpResponseBase:
    """Embed a text, or several."""
    return await _embed(request, many=True)


@methods("POST")
async def embeddings(request: HttpRequest) -> HttpResponseBase:
    """Embed one text, in the older form."""
    return await _embed(request, many=False)


async def elsewhere(request: HttpRequest, what: str, rest: str = "") -> HttpResponseBase:
    """Say where to do what is not done here."""
    del rest
    await _chatter(request)
    raise NotSupported(_ELSEWHERE[what], code="not_done_here")


async def unknown(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Answer for every other path."""
    del request
    raise NotFound(
        f"There is no /ollama/{rest[:120]}. Under /ollama/api there is: {PATHS}.",
        code="path_not_found",
    )


# Chats


async def _answer(
    request: HttpRequest, parsed: Callable[[Mapping[str, Any], str | None], Asked], *, chat: bool
) -> HttpResponseBase:
    asked: Asked

    def read(other: str | None = None) -> ChatRequest:
        nonlocal asked
        asked = parsed(_body(request), other)
        return asked.chat

    admitted = await _tolerant(
        lambda other: services.admit(
            lambda came: actor_of(request, "ollama", asked=came), lambda: read(other)
        ),
        lambda: str(read().model),
    )
    lines = Lines(asked.name, chat=chat)
    if asked.is_load:
        return JsonResponse(lines.load())
    if not asked.stream:
        return JsonResponse(lines.whole(await services.chat_admitted_complete(admitted)))
    stream = Stream(
        _lines(admitted, lines),
        on_error=lambda error: _error_line(error, admitted.actor),
        heartbeat=lines.empty(),
    )
    await stream.begin()
    return EventStream(stream, content_type=NDJSON)


async def _lines(admitted: Admitted[ChatRequest], lines: Lines) -> AsyncGenerator[bytes, None]:
    async with aclosing(services.chat_admitted(admitted)) as events:
        async for event in events:
            if line := lines.line(event):
                yield line


def _error_line(error: MhError, actor: Actor) -> bytes:
    return error_line(error.body(actor.request_id))


# Embeddings


async def _embed(request: HttpRequest, *, many: bool) -> HttpResponseBase:
    asked: OllamaEmbed

    def read(other: str | None = None) -> OpenAICall:
        nonlocal asked
        asked = parse(OllamaEmbed, _body(request), always_400=True)
        model = spelled(other or asked.model)
        fields = {"model": model, "input": asked.texts, "dimensions": asked.dimensions}
        return OpenAICall("/v1/embeddings", b"", fields)

    admitted = await _tolerant(
        lambda other: services.admit(
            lambda came: actor_of(request, "ollama", asked=came), lambda: read(other)
        ),
        lambda: str(read().fields["model"]),
    )
    if not asked.texts:
        empty: dict[str, Any] = {"model": asked.model, "embeddings": []}
        return JsonResponse(empty if many else {"embedding": []})
    found = await services.embed_admitted(admitted)
    if not many:
        return JsonResponse({"embedding": list(found.vectors[0])})
    return JsonResponse(
        {
            "model": asked.model,
            "embeddings": [list(vector) for vector in found.vectors],
            "total_duration": 0,
            "load_duration": 0,
            "prompt_eval_count": found.usage["prompt_tokens"] if found.usage else 0,
        }
    )


# Requests


async def _tolerant(
    ask: Callable[[str | None], Awaitable[_Answer]], name: Callable[[], str]
) -> _Answer:
    """Return what ``ask`` returns for the name as it is, else for its other spelling."""
    try:
        return await ask(None)
    except UnknownRoute:
        other = otherwise(name())
        if other is None:
            raise
        try:
            return await ask(other)
        except UnknownRoute:
            pass
        raise


def _body(request: HttpRequest) -> Mapping[str, Any]:
    # Whatever it calls itself: ``curl -d`` says that JSON is a form, and Ollama does not look.
    return json_body(request, any_type=True)[1]


async def _chatter(request: HttpRequest) -> Actor:
    """Return who asks, if they may chat."""
    actor = await authenticate(request, "ollama")
    await arequire(actor, Permission.CHAT, target_type="path", target_id=request.path_info[:200])
    return actor
