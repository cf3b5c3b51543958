"""OpenAI's API, passed on with as little change as can be."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from django.conf import settings

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from router import selectors
from router.selectors import ModelCard, Resolved
from router.services.admission import Admitted, OpenAICall
from router.services.measuring import meter_of, sent
from router.usage import Tail, usage_in

#: How a stream's last block ends.
_DONE = (b"[DONE]\n\n", b"[DONE]\r\n\r\n")


async def relay(admitted: Admitted[OpenAICall]) -> AsyncGenerator[bytes, None]:
    """Pass a streamed request on; yield the engine's frames, ``[DONE]`` included.

    Closing it stops the generation. Iterate in one task.

    Raises:
        MhError: at any time. Before the first frame nothing has been generated.
    """
    call, waiting = admitted.asked, admitted.waiting
    tail = Tail(call.fields)
    with meter_of(admitted) as meter:

        def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
            sent(meter, found)
            body = tail.ask(call.for_route(found))
            return found.provider.relay(found.target, call.path, body, waiting.request_id)

        def watched(frame: bytes) -> bytes:
            passed = tail.feed(frame)
            if passed.endswith(_DONE):
                # Now: a client that has seen it may leave at once.
                meter.tokens(tail.usage)
                meter.done()
            return passed

        async with AsyncExitStack() as stack:
            async for _ in waiting.until_open(stack, send, settings.MH_FIRST_TOKEN_SECONDS):
                pass  # a comment every few seconds says that it waits
            meter.piece()
            if passed := watched(waiting.first):
                yield passed
            async for frame in waiting.rest:
                if passed := watched(frame):
                    yield passed
            meter.tokens(tail.usage)
            meter.done()


async def relay_complete(admitted: Admitted[OpenAICall]) -> bytes:
    """Pass a request on that is not streamed; return the engine's answer.

    Raises:
        MhError: it could not be answered.
    """
    call, waiting = admitted.asked, admitted.waiting
    with meter_of(admitted) as meter:

        @asynccontextmanager
        async def send(found: Resolved) -> AsyncIterator[AsyncIterator[bytes]]:
            async def answer() -> AsyncIterator[bytes]:
                sent(meter, found)
                yield await found.provider.ask(
                    found.target, call.path, call.for_route(found), waiting.request_id
                )

            yield answer()

        async with AsyncExitStack() as stack:
            async for _ in waiting.until_open(stack, send, settings.MH_ANSWER_SECONDS):
                pass
            answer: bytes = waiting.first
            meter.tokens(usage_in(answer))
            meter.done()
            return answer


async def models_list(*, actor: Actor) -> list[ModelCard]:
    """Return every name ``actor`` may use as ``model``.

    Raises:
        NotAuthenticated, NotAllowed: they may not chat.
    """
    return await database.in_database(_models, actor)


def _models(actor: Actor) -> list[ModelCard]:
    require(actor, Permission.CHAT, target_type="path", target_id="/v1/models")
    return selectors.model_cards()
