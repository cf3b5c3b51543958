"""Chats: a request in, a stream of events out."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing

from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from router.events import ChatEvent, ChatResult, DoneEvent, ErrorEvent, StartEvent
from router.providers.base import ChatCall, Delta, Finished, Waits
from router.schemas import ChatRequest
from router.selectors import Resolved
from router.services.admission import Admitted, admit_known
from router.services.answers import Answer
from router.services.measuring import meter_of, sent
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


async def chat_admitted(admitted: Admitted[ChatRequest]) -> AsyncGenerator[ChatEvent, None]:
    """Do what ``chat`` does, for a request that ``admit`` let in."""
    actor, waiting = admitted.actor, admitted.waiting
    started = False
    with meter_of(admitted) as meter:

        def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
            sent(meter, found)
            call = _call(admitted.asked, found, waiting.request_id)
            return found.provider.chat(found.target, call)

        try:
            async with AsyncExitStack() as stack:
                patience = settings.MH_FIRST_TOKEN_SECONDS
                async for queued in waiting.until_open(stack, send, patience):
                    yield queued
                meter.piece()
                started = True
                yield _start(waiting.found, actor)
                delta: Delta | None = waiting.first
                while not (delta is None or isinstance(delta, Finished | Waits)):
                    yield delta
                    delta = await anext(waiting.rest, None)
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
    answer = Answer()
    async with aclosing(chat_admitted(admitted)) as events:
        async for event in events:
            answer.add(event)
    return answer.result()


def _start(found: Resolved, actor: Actor) -> StartEvent:
    return StartEvent(
        type="start",
        model=found.route.model,
        provider=found.route.provider,
        backend=found.route.backend or None,
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
