"""What is done to a request of OpenAI's API that is passed on: old turns are left out where the role says so, and a
refusal for its length says how long it is. Only its messages change.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from router.errors import ContextTooLong
from router.openai_translation import CHAT_PATH
from router.providers.base import ChatCall
from router.providers.openai_compatible import encode
from router.resolution import ContextPolicy
from router.selectors import Resolved
from router.services.admission import OpenAICall
from router.shaping import too_long_explained, trimmed


def is_fitted(found: Resolved, call: OpenAICall) -> bool:
    """Say whether old turns of ``call`` may be left out."""
    return (
        found.route.context is ContextPolicy.TRIM
        and call.path == CHAT_PATH
        and found.provider.capabilities_of(found.target).counts_tokens
    )


async def fitted(found: Resolved, call: OpenAICall, request_id: str) -> OpenAICall:
    """Return ``call`` without the oldest turns it has no room for, where they may be left out.

    Raises:
        ContextTooLong: what has to stay is too long.
        MhError: the engine could not be asked how long it is.
    """
    if not is_fitted(found, call):
        return call
    asked = _chat(found, call, request_id)
    shorter = await trimmed(found.provider, found.target, asked)
    if shorter is asked:
        return call
    fields = {**call.fields, "messages": list(shorter.messages)}
    return OpenAICall(call.path, encode(fields), fields)


def relay_fitted(
    found: Resolved, call: OpenAICall, ask: Callable[[bytes], bytes], request_id: str
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    """Send a streamed request as ``Provider.relay`` does; ``ask`` puts what we want to know into its body."""

    @asynccontextmanager
    async def relayed() -> AsyncIterator[AsyncIterator[bytes]]:
        body = ask((await fitted(found, call, request_id)).for_route(found))
        async with found.provider.relay(found.target, call.path, body, request_id) as frames:
            yield frames

    return relayed()


async def explained(
    refusal: ContextTooLong, found: Resolved, call: OpenAICall, request_id: str
) -> ContextTooLong:
    """Return ``refusal`` with the count and the limit it lacks, where the engine can count."""
    if call.path != CHAT_PATH:
        return refusal
    asked = _chat(found, call, request_id)
    return await too_long_explained(refusal, found.provider, found.target, asked)


def _chat(found: Resolved, call: OpenAICall, request_id: str) -> ChatCall:
    """Return as much of a request as has to do with its length."""
    tools = call.fields.get("tools")
    given = {name: value for name, value in call.fields.items() if value is not None}
    return ChatCall(
        model=found.route.model,
        messages=call.fields["messages"],
        options={**found.route.options, **given},
        tools=tools if isinstance(tools, list) else None,
        request_id=request_id,
    )
