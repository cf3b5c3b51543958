"""What is done to a chat on its way to a provider and back, whatever provider that is.

Old turns are left out where the role says so, a format is said to engines that do not constrain their answers, and
reasoning in the text is taken out of it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from accounts.errors import MhError
from backends.engines.base import Target
from router.context import room, trim
from router.errors import ContextTooLong, too_long
from router.providers.base import ChatCall, Delta, Provider
from router.reasoning import split_reasoning
from router.resolution import ContextPolicy, Route
from router.structured import told

#: How often a prompt is counted while it is being shortened.
_COUNTS_MAX = 8


@dataclass(slots=True, kw_only=True)
class Shape:
    """How one chat is treated, and what became of it."""

    #: Whether old turns may be left out (``ContextPolicy.TRIM``).
    trims: bool = False
    #: Whether the registry says that the model thinks before it answers.
    thinks: bool = False
    #: How many messages were left out.
    trimmed: int = 0


def shape_of(route: Route) -> Shape:
    """Return how a chat is treated that goes this way."""
    return Shape(trims=route.context is ContextPolicy.TRIM, thinks="thinking" in route.capabilities)


@asynccontextmanager
async def chat_shaped(
    provider: Provider, target: Target, call: ChatCall, shape: Shape
) -> AsyncIterator[AsyncIterator[Delta]]:
    """Do what ``provider.chat`` does. Raises as it; a prompt that is too long, with count and limit if possible."""
    shape.trimmed = 0
    if shape.trims and provider.capabilities_of(target).counts_tokens:
        shorter = await trimmed(provider, target, call)
        shape.trimmed = len(call.messages) - len(shorter.messages)
        call = shorter
    if not provider.capabilities_of(target).schemas:
        call = replace(call, messages=told(call.messages, call.format))
    opened = shape.thinks and _leaves_tags(provider, target, call.options)
    try:
        async with provider.chat(target, call) as deltas:
            split = split_reasoning(deltas, opened=opened)
            async with aclosing(split):
                yield split
    except ContextTooLong as exc:
        raise await too_long_explained(exc, provider, target, call) from exc


def _leaves_tags(provider: Provider, target: Target, options: Mapping[str, Any]) -> bool:
    """Say whether the engine may send reasoning as text, without the tag that its template has opened."""
    parser = getattr(target.options, "reasoningParser", None)
    return (
        provider.capabilities_of(target).reasons_in_text
        and not parser
        and options.get("think") is not False
    )


async def trimmed(provider: Provider, target: Target, call: ChatCall) -> ChatCall:
    """Return ``call`` without the oldest turns it has no room for; itself where it has room for all.

    Raises:
        ContextTooLong: what has to stay is too long.
    """
    for _ in range(_COUNTS_MAX):
        count, limit = await provider.count(target, call)
        fits = room(limit, call.options)
        if not limit or count <= fits:
            return call
        messages = trim(call.messages, count, fits)
        if len(messages) == len(call.messages):
            if count < limit:
                return call
            raise too_long(count, limit)
        call = replace(call, messages=messages)
    return call


async def too_long_explained(
    refusal: ContextTooLong, provider: Provider, target: Target, call: ChatCall
) -> ContextTooLong:
    """Return ``refusal`` with the numbers it lacks, where the engine can count."""
    if (refusal.count and refusal.limit) or not provider.capabilities_of(target).counts_tokens:
        return refusal
    try:
        count, limit = await provider.count(target, call)
    except MhError:
        return refusal
    return too_long(refusal.count or count, refusal.limit or limit)
