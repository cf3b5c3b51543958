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


async def relay(admitted: Admitted[OpenAICall]) -> AsyncGenerator[bytes, None]:
    """Pass a streamed request on; yield the engine's frames, ``[DONE]`` included.

    Closing it stops the generation. Iterate in one task.

    Raises:
        MhError: at any time. Before the first frame nothing has been generated.
    """
    call, waiting = admitted.asked, admitted.waiting

    def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return found.provider.relay(
            found.target, call.path, call.for_route(found), waiting.request_id
        )

    async with AsyncExitStack() as stack:
        async for _ in waiting.until_open(stack, send, settings.MH_FIRST_TOKEN_SECONDS):
            pass  # a comment every few seconds says that it waits
        yield waiting.first
        async for frame in waiting.rest:
            yield frame


async def relay_complete(admitted: Admitted[OpenAICall]) -> bytes:
    """Pass a request on that is not streamed; return the engine's answer.

    Raises:
        MhError: it could not be answered.
    """
    call, waiting = admitted.asked, admitted.waiting

    @asynccontextmanager
    async def send(found: Resolved) -> AsyncIterator[AsyncIterator[bytes]]:
        async def answer() -> AsyncIterator[bytes]:
            yield await found.provider.ask(
                found.target, call.path, call.for_route(found), waiting.request_id
            )

        yield answer()

    async with AsyncExitStack() as stack:
        async for _ in waiting.until_open(stack, send, settings.MH_ANSWER_SECONDS):
            pass
        answer: bytes = waiting.first
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
