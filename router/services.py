"""Chats, and writes to the registry.

No database connection is held while an engine answers: everything the database knows is read before,
in one piece of synchronous code.
"""

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import transaction

from accounts import database
from accounts.actors import Actor
from accounts.errors import MhError
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from router import selectors
from router.errors import NoRoute
from router.events import (
    ChatEvent,
    ChatResult,
    DoneEvent,
    ErrorEvent,
    StartEvent,
    Timings,
    ToolCall,
    ToolCallPiece,
)
from router.holding import Waiting, resolved
from router.models import ModelEntry, Role, RoleLink
from router.providers.base import ChatCall, Finished, Provider
from router.providers.openai_compatible import encode
from router.providers.registry import engine_provider
from router.schemas import ChatRequest, RegistryFile, parse
from router.selectors import ModelCard, Resolved

# -- admission


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """A request of OpenAI's API, to be passed on with as little change as can be."""

    path: str
    #: What the client sent, and what it parses to.
    body: bytes
    fields: Mapping[str, Any]

    def for_route(self, found: Resolved) -> bytes:
        """Return the body for the engine: the client's own bytes where nothing has to change."""
        defaults = {
            name: value
            for name, value in found.route.options.items()
            if self.fields.get(name) is None
            and not (name == "max_tokens" and self.fields.get("max_completion_tokens") is not None)
        }
        if not defaults and self.fields.get("model") == found.route.model:
            return self.body
        return encode({**self.fields, **defaults, "model": found.route.model})


_Asked = TypeVar("_Asked", ChatRequest, OpenAICall)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[_Asked]):
    """A request that may be sent to an engine."""

    actor: Actor
    asked: _Asked
    #: Its way to an engine that answers.
    waiting: Waiting
    #: When it came (``time.perf_counter``).
    begin: float


async def admit(who: Callable[[float], Actor], read: Callable[[], _Asked]) -> Admitted[_Asked]:
    """Do everything that needs the database in one visit: who asks, may they, what, who answers.

    In this order: the body is read when it is known that they may chat, so that strangers learn
    nothing of it.

    Args:
        who: says who asks, given the time it came; may raise ``NotAuthenticated``.
        read: parses what they ask; may raise ``InvalidRequest``.

    Raises:
        NotAuthenticated, NotAllowed: they may not; the refusal is recorded.
        MhError: the request is no good, or nobody can answer it now.
    """
    return await database.in_database(_admitted, who, read, time.perf_counter())


def _admitted(
    who: Callable[[float], Actor], read: Callable[[], _Asked], begin: float
) -> Admitted[_Asked]:
    actor = who(begin)
    require(actor, Permission.CHAT, target_type="chat")
    asked = read()
    if isinstance(asked, ChatRequest):
        return Admitted(actor, asked, _way(actor, asked.role, asked.model, begin), begin)
    return Admitted(actor, asked, _way(actor, None, asked.fields.get("model"), begin), begin)


def _way(actor: Actor, role: str | None, model: str | None, begin: float) -> Waiting:
    """Find who answers now; a request that is worth a wait goes on without."""
    try:
        found = resolved(role, model, begin)
    except NoRoute as exc:
        if exc.wait is None:
            raise
        found = None
    request_id = _unique(actor.request_id)
    return Waiting(actor=actor, role=role, model=model, found=found, request_id=request_id)


async def _admit_known(actor: Actor, request: ChatRequest) -> Admitted[ChatRequest]:
    return await database.in_database(_admitted_known, actor, request, time.perf_counter())


def _admitted_known(actor: Actor, request: ChatRequest, begin: float) -> Admitted[ChatRequest]:
    role, model = request.role, request.model
    require(actor, Permission.CHAT, target_type="model", target_id=role or model or "")
    return Admitted(actor, request, _way(actor, role, model, begin), begin)


# -- chats


class _Clock:
    """Measures one chat."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        self._sent: float | None = None
        self._first: float | None = None

    def sent(self) -> None:
        self._sent = self._now()

    def piece(self) -> None:
        if self._first is None:
            self._first = self._now()

    def timings(self) -> Timings:
        return Timings(queued_ms=self._sent, ttft_ms=self._first, total_ms=self._now())

    def _now(self) -> float:
        return round((time.perf_counter() - self._begin) * 1000, 1)


async def chat(*, actor: Actor, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
    """Answer a chat as a stream of events: ``start`` first, ``done`` or ``error`` last.

    Closing the generator, or cancelling the task that iterates over it, stops the engine's generation.
    Iterate in one task.

    Raises:
        MhError: before ``start``, and only then: not allowed, no such model, not running, refused by
            the engine. Later failures are an ``error`` event.
    """
    async with aclosing(chat_admitted(await _admit_known(actor, request))) as events:
        async for event in events:
            yield event


async def chat_admitted(admitted: Admitted[ChatRequest]) -> AsyncGenerator[ChatEvent, None]:
    """Do what ``chat`` does, for a request that ``admit`` let in."""
    actor, waiting = admitted.actor, admitted.waiting
    clock = _Clock(admitted.begin)
    started = False
    try:
        async with AsyncExitStack() as stack:
            async for queued in waiting.until_leased(stack):
                yield queued
            found = waiting.found
            call = _call(admitted.asked, found, waiting.request_id)
            sent = _sent(clock, engine_provider(found.engine), found, call)
            deltas = await stack.enter_async_context(sent)
            started = True
            yield _start(found, actor)
            async for delta in deltas:
                if isinstance(delta, Finished):
                    yield DoneEvent(
                        type="done",
                        finish_reason=delta.reason,
                        usage=delta.usage,
                        timings=clock.timings(),
                    )
                    return
                clock.piece()
                yield delta
    except MhError as exc:
        if not started:
            raise
        yield ErrorEvent(type="error", error=exc.body(actor.request_id))


async def chat_complete(*, actor: Actor, request: ChatRequest) -> ChatResult:
    """Answer a chat at once, when it is complete.

    Raises:
        MhError: it could not be answered, or not to the end.
    """
    return await chat_admitted_complete(await _admit_known(actor, request))


async def chat_admitted_complete(admitted: Admitted[ChatRequest]) -> ChatResult:
    """Do what ``chat_complete`` does, for a request that ``admit`` let in."""
    answer = _Answer()
    async with aclosing(chat_admitted(admitted)) as events:
        async for event in events:
            answer.add(event)
    return answer.result()


class _Answer:
    """Puts the events of a chat together."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {"token": [], "reasoning": []}
        self._calls: dict[int, list[ToolCallPiece]] = {}
        self._start: StartEvent | None = None
        self._done: DoneEvent | None = None

    def add(self, event: ChatEvent) -> None:
        match event["type"]:
            case "start":
                self._start = event
            case "token" | "reasoning":
                self._text[event["type"]].append(event["content"])
            case "tool_call":
                self._calls.setdefault(event["tool_call"]["index"], []).append(event["tool_call"])
            case "done":
                self._done = event
            case "error":
                raise _RelayedError(event)

    def result(self) -> ChatResult:
        if self._start is None or self._done is None:
            msg = "a chat ended without done or error"
            raise RuntimeError(msg)
        return ChatResult(
            content="".join(self._text["token"]),
            reasoning="".join(self._text["reasoning"]),
            tool_calls=[_whole_call(pieces) for _, pieces in sorted(self._calls.items())],
            model=self._start["model"],
            provider=self._start["provider"],
            backend=self._start["backend"],
            finish_reason=self._done["finish_reason"],
            usage=self._done["usage"],
            timings=self._done["timings"],
            request_id=self._start["request_id"],
        )


class _RelayedError(MhError):
    """An ``error`` event, for callers who want an exception."""

    def __init__(self, event: ErrorEvent) -> None:
        error = event["error"]
        super().__init__(error["message"], code=error["code"], param=error["param"])
        self.type = error["type"]
        self.status = 503 if error["type"] == "unavailable_error" else 502


def _whole_call(pieces: list[ToolCallPiece]) -> ToolCall:
    return ToolCall(
        id=next((piece["id"] for piece in pieces if "id" in piece), ""),
        name=next((piece["name"] for piece in pieces if "name" in piece), ""),
        arguments="".join(piece["arguments"] for piece in pieces),
    )


@asynccontextmanager
async def _sent(
    clock: _Clock, provider: Provider, found: Resolved, call: ChatCall
) -> AsyncIterator[AsyncIterator[Any]]:
    clock.sent()
    async with provider.chat(found.target, call) as deltas:
        yield deltas


def _start(found: Resolved, actor: Actor) -> StartEvent:
    return StartEvent(
        type="start",
        model=found.route.model,
        provider=found.route.provider,
        backend=found.route.backend,
        request_id=actor.request_id,
    )


def _call(request: ChatRequest, found: Resolved, request_id: str) -> ChatCall:
    return ChatCall(
        model=found.route.model,
        messages=[message.given() for message in request.messages],
        options={**found.route.options, **request.options.given()},
        format=request.format,
        tools=request.tools,
        tool_choice=request.tool_choice,
        request_id=request_id,
    )


def _unique(request_id: str) -> str:
    """Return an id nobody else has in flight: clients choose request ids, and choose them twice."""
    return f"{request_id[:64]}-{secrets.token_hex(6)}"


# -- OpenAI's API, passed on


async def relay(admitted: Admitted[OpenAICall]) -> AsyncGenerator[bytes, None]:
    """Pass a streamed request on; yield the engine's frames, ``[DONE]`` included.

    Closing it stops the generation. Iterate in one task.

    Raises:
        MhError: at any time. Before the first frame nothing has been generated.
    """
    call, waiting = admitted.asked, admitted.waiting
    async with AsyncExitStack() as stack:
        async for _ in waiting.until_leased(stack):
            pass  # a comment every few seconds says that it waits
        found = waiting.found
        body = call.for_route(found)
        relayed = engine_provider(found.engine).relay(
            found.target, call.path, body, waiting.request_id
        )
        async for frame in await stack.enter_async_context(relayed):
            yield frame


async def relay_complete(admitted: Admitted[OpenAICall]) -> bytes:
    """Pass a request on that is not streamed; return the engine's answer.

    Raises:
        MhError: it could not be answered.
    """
    call, waiting = admitted.asked, admitted.waiting
    async with AsyncExitStack() as stack:
        async for _ in waiting.until_leased(stack):
            pass
        found = waiting.found
        return await engine_provider(found.engine).ask(
            found.target, call.path, call.for_route(found), waiting.request_id
        )


async def models_list(*, actor: Actor) -> list[ModelCard]:
    """Return every name ``actor`` may use as ``model``.

    Raises:
        NotAuthenticated, NotAllowed: they may not chat.
    """
    return await database.in_database(_models, actor)


def _models(actor: Actor) -> list[ModelCard]:
    require(actor, Permission.CHAT, target_type="path", target_id="/v1/models")
    return selectors.model_cards()


# -- the registry


def registry_import(*, actor: Actor, data: object) -> RegistryFile:
    """Replace the registry by what ``etc/models.json`` holds, parsed as JSON.

    Raises:
        InvalidRequest, Invalid: it is not what the schema says; the message names the key.
        NotAuthenticated, NotAllowed: ``actor`` may not change the registry.
    """
    require(actor, Permission.BACKENDS_OPERATE, target_type="registry")
    file = parse(RegistryFile, data)
    with transaction.atomic():
        before = registry_export()
        RoleLink.objects.all().delete()
        Role.objects.all().delete()
        ModelEntry.objects.exclude(id__in=file.models).delete()
        for entry_id, entry in file.models.items():
            values = entry.model_dump(exclude={"options"})
            values["options"] = entry.options.given()
            ModelEntry.objects.update_or_create(id=entry_id, defaults=values)
        Role.objects.bulk_create([Role(name=name) for name in file.roles])
        RoleLink.objects.bulk_create(
            [
                RoleLink(role_id=role, entry_id=entry, position=position)
                for role, chain in file.roles.items()
                for position, entry in enumerate(chain)
            ]
        )
        event_record(
            actor=actor,
            event="registry.imported",
            category=Category.CONFIGURATION,
            target_type="registry",
            before=before,
            after=registry_export(),
        )
    return file


def registry_export() -> dict[str, Any]:
    """Return the registry in the form of ``etc/models.json``."""
    links: dict[str, list[str]] = {name: [] for name in Role.objects.values_list("name", flat=True)}
    for role, entry in RoleLink.objects.values_list("role_id", "entry_id"):
        links[role].append(entry)
    return {
        "version": "1.0.0",
        "models": {row.id: _entry_export(row) for row in ModelEntry.objects.all()},
        "roles": links,
    }


def _entry_export(row: ModelEntry) -> dict[str, Any]:
    entry: dict[str, Any] = {"provider": row.provider}
    if row.model:
        entry["model"] = row.model
    if row.options:
        entry["options"] = dict(row.options)
    if row.description:
        entry["description"] = row.description
    return entry
