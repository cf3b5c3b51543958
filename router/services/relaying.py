"""OpenAI's API, passed on with as little change as can be."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from router import selectors
from router.embedding_translation import embedding_answer, embedding_call
from router.openai_translation import CHAT_PATH, chat_call, translated, translated_whole
from router.providers.base import ChatCall, Provider
from router.providers.openai_compatible import EMBEDDINGS_PATH, encode
from router.providers.registry import engine_provider
from router.selectors import ModelCard, Resolved
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
        provider = engine_provider(found.engine)
        if _is_translated(provider, call):
            asked = _translation(call, found, waiting.request_id)
            deltas = await stack.enter_async_context(provider.chat(found.target, asked))
            frames = translated(deltas, asked, call.fields)
            async for frame in await stack.enter_async_context(aclosing(frames)):
                yield frame
            return
        body = call.for_route(found, provider)
        relayed = provider.relay(found.target, call.path, body, waiting.request_id)
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
        provider = engine_provider(found.engine)
        if _is_translated(provider, call):
            asked = _translation(call, found, waiting.request_id)
            deltas = await stack.enter_async_context(provider.chat(found.target, asked))
            return await translated_whole(deltas, asked)
        if call.path == EMBEDDINGS_PATH and call.path not in provider.capabilities.openai_paths:
            return await _embedded(provider, found, call, waiting.request_id)
        body = call.for_route(found, provider)
        return await provider.ask(found.target, call.path, body, waiting.request_id)


async def _embedded(
    provider: Provider, found: Resolved, call: OpenAICall, request_id: str
) -> bytes:
    """Answer a request for embeddings by the provider's own protocol."""
    asked = embedding_call(call.fields, found.route.model, request_id)
    embeddings = await provider.embed(found.target, asked)
    return encode(embedding_answer(embeddings, asked, call.fields.get("encoding_format")))


def _is_translated(provider: Provider, call: OpenAICall) -> bool:
    return call.path == CHAT_PATH and CHAT_PATH not in provider.capabilities.openai_paths


def _translation(call: OpenAICall, found: Resolved, request_id: str) -> ChatCall:
    return chat_call(
        call.fields, model=found.route.model, options=found.route.options, request_id=request_id
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
