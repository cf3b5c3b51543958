"""OpenAI's API, passed on with as little change as can be."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from router import selectors
from router.providers.registry import engine_provider
from router.selectors import ModelCard
from router.services.admission import Admitted, OpenAICall


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
