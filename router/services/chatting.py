"""Chats: a request in, a stream of events out."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any

from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from router.events import ChatEvent, ChatResult, DoneEvent, ErrorEvent, StartEvent
from router.holding import Waiting
from router.providers.base import ChatCall, Delta, Finished, Waits
from router.schemas import ChatRequest, Message
from router.selectors import Resolved
from router.services.admission import Admitted, admit_known
from router.services.answers import Answer
from router.services.formats import format_checked, format_followed
from router.services.measuring import came, meter_of, sent
from router.shaping import Shape, chat_shaped, shape_of
from router.structured import constrained
from router.usage import Meter


async def chat(*, actor: Actor, request: ChatRequest) -> AsyncGenerator[ChatEvent, None]:
    """Answer a chat as a stream of events: ``start`` first, ``done`` or ``error`` last.

    Closing the generator, or cancelling the task that iterates over it, stops the engine's generation.
    Iterate in one task.

    Raises:
        MhError: before ``start``, and only then: not allowed, no such model, not running, refused by
            the engine. Later failures are an ``error`` event.
    """
    async with aclosing(chat_admitted(await admit_known(actor, request))) as events:
        async for event in events:
            yield event


def chat_admitted(admitted: Admitted[ChatRequest]) -> AsyncGenerator[ChatEvent, None]:
    """Do what ``chat`` does, for a request that ``admit`` let in."""
    events, wanted = _answered(admitted), admitted.asked.format
    if not constrained(wanted):
        return events
    return format_checked(events, wanted, admitted.actor.request_id)


async def _answered(admitted: Admitted[ChatRequest]) -> AsyncGenerator[ChatEvent, None]:
    actor, waiting = admitted.actor, admitted.waiting
    started = False
    shape = Shape()
    with meter_of(admitted) as meter:

        def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
            nonlocal shape
            sent(meter, found)
            shape = shape_of(found.route)
            call = _call(admitted.asked, found, waiting.request_id)
            return chat_shaped(found.provider, found.target, call, shape)

        try:
            async with AsyncExitStack() as stack:
                patience = settings.MH_FIRST_TOKEN_SECONDS
                async for queued in waiting.until_open(stack, send, patience):
                    yield queued
                meter.piece()
                started = True
                yield _start(waiting, actor, shape)
                delta: Delta | None = waiting.first
                while not (delta is None or isinstance(delta, Finished | Waits)):
                    came(meter, delta)
                    yield delta
                    delta = await anext(waiting.rest, None)
                    meter.pieces += 1
                if isinstance(delta, Finished):
                    meter.tokens(delta.usage)
                    meter.done()
                    yield _done(delta, meter)
        except MhError as exc:
            if not started:
                raise
            meter.failed(exc.code)
            yield ErrorEvent(type="error", error=exc.body(actor.request_id))


def _done(finished: Finished, meter: Meter) -> DoneEvent:
    return DoneEvent(
        type="done",
        finish_reason=finished.reason,
        usage=finished.usage,
        timings=meter.timings(),
    )


async def chat_complete(*, actor: Actor, request: ChatRequest) -> ChatResult:
    """Answer a chat at once, when it is complete.

    Raises:
        MhError: it could not be answered, or not to the end.
    """
    return await chat_admitted_complete(await admit_known(actor, request))


async def chat_admitted_complete(admitted: Admitted[ChatRequest]) -> ChatResult:
    """Do what ``chat_complete`` does, for a request that ``admit`` let in."""
    actor, asked = admitted.actor, admitted.asked
    result = await _whole(_answered(admitted))
    if not constrained(asked.format):
        return result

    async def again(more: list[dict[str, Any]]) -> ChatResult:
        messages = [*asked.messages, *(Message.model_validate(message) for message in more)]
        request = asked.model_copy(update={"messages": messages})
        return await _whole(_answered(await admit_known(actor, request)))

    return await format_followed(result, asked.format, again)


async def _whole(answered: AsyncGenerator[ChatEvent, None]) -> ChatResult:
    answer = Answer()
    async with aclosing(answered) as events:
        async for event in events:
            answer.add(event)
    return answer.result()


def _start(waiting: Waiting, actor: Actor, shape: Shape) -> StartEvent:
    found = waiting.found
    event = StartEvent(
        type="start",
        model=found.route.model,
        provider=found.route.provider,
        backend=found.route.backend or None,
        request_id=actor.request_id,
    )
    if found.route.entry:
        event["entry"] = found.route.entry
    if waiting.tried:
        event["tried"] = waiting.tried
    if shape.trimmed:
        event["trimmed"] = shape.trimmed
    return event


def _call(request: ChatRequest, found: Resolved, request_id: str) -> ChatCall:
    return ChatCall(
        model=found.route.model,
        messages=[message.given() for message in request.messages],
        options={**found.route.options, **request.options.asked()},
        format=request.format,
        tools=request.tools,
        tool_choice=request.tool_choice,
        request_id=request_id,
    )
