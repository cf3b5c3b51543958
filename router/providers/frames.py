"""The frames of a stream that is passed on: one after the other, or poured into who takes them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from router.providers.openai_errors import TRANSPORT_ERRORS, transport_error
from router.providers.openai_stream import Relay
from router.providers.sending import Answer
from router.providers.wire import Exchange

_DRAIN_SECONDS: Final = 0.25
#: Takes some frames; says whether it takes more.
Take = Callable[[bytes], bool]


class Frames:
    """Whole frames, unchanged, to the end marker.

    Raises, from reading:
        MhError: it broke off, or carries an error.
    """

    def __init__(self, response: Answer) -> None:
        self._relay = Relay()
        self._response = response
        self._chunks = response.aiter_raw()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next frames."""
        relay = self._relay
        while not relay.is_over:
            try:
                chunk = await anext(self._chunks, None)
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=True) from exc
            if frames := relay.end() if chunk is None else relay.feed(chunk):
                return frames
        await self._end()
        raise StopAsyncIteration

    async def pour(self, take: Take, plain: Take | None = None) -> bool:
        """Give what comes to ``take``: from ``wire`` with no task in between, which is what a token costs most.

        Args:
            take: gets the frames.
            plain: gets those instead in which there is nothing to see (``Relay.is_plain``).

        Returns:
            True as soon as ``take`` wants no more for now: ask again when it does. False at the end.
        """
        relay = self._relay

        def passed(chunk: bytes) -> bool:
            if plain is not None and relay.is_plain(chunk):
                return plain(chunk)
            frames = relay.feed(chunk)
            return (not frames or take(frames)) and not relay.is_over

        if not relay.is_over:
            try:
                is_more = await self._poured(passed)
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=True) from exc
            if is_more and not relay.is_over:
                return True
            if rest := relay.end():
                take(rest)
        await self._end()
        return False

    async def _poured(self, take: Take) -> bool:
        if isinstance(self._response, Exchange):
            return await self._response.pour(take)
        async for chunk in self._chunks:
            if not take(chunk):
                return True
        return False

    async def _end(self) -> None:
        if self._relay.error is not None:
            raise self._relay.error
        if isinstance(self._response, Exchange) and self._response.is_complete:
            return
        await drain(self._chunks)


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the end of a body, so that its connection can be used again; not for long."""
    with contextlib.suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass
