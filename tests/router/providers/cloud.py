"""What the tests of the cloud providers share."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from accounts.errors import MhError
from backends.engines.base import Target
from router.providers.base import ChatCall, Delta, Finished, Provider, Waits
from tests.fakes.cloud import WORDS

TEXT = "".join(WORDS)
KEY = "key-of-the-tests"
MESSAGES = ({"role": "user", "content": "What is the capital of France?"},)


def call(**fields: Any) -> ChatCall:
    return ChatCall(**{"model": "", "messages": MESSAGES, "request_id": "req-1", **fields})


def target(provider: Provider, settings: Mapping[str, Any]) -> Target:
    assert provider.Settings is not None
    return provider.target(provider.Settings.model_validate({"apiKey": KEY, **settings}))


async def deltas(provider: Provider, to: Target, asked: ChatCall | None = None) -> list[Delta]:
    async with provider.chat(to, asked or call()) as found:
        return [delta async for delta in found]


async def failure(provider: Provider, to: Target, asked: ChatCall | None = None) -> MhError:
    with pytest.raises(MhError) as caught:
        await deltas(provider, to, asked)
    assert KEY not in caught.value.message
    return caught.value


async def first_piece(found: AsyncIterator[Delta]) -> Delta:
    async for delta in found:
        if not isinstance(delta, Waits):
            return delta
    raise AssertionError


def text(found: list[Delta], kind: str = "token") -> str:
    return "".join(
        delta["content"]
        for delta in found
        if isinstance(delta, dict) and delta["type"] == kind and "content" in delta
    )


def waits(found: list[Delta]) -> list[Waits]:
    return [delta for delta in found if isinstance(delta, Waits)]


def finished(found: list[Delta]) -> Finished:
    assert isinstance(found[-1], Finished)
    assert sum(isinstance(delta, Finished) for delta in found) == 1
    return found[-1]
