"""Sends a request to an OpenAI-compatible server: over ``wire`` where it is plain HTTP, else by httpx."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import httpx

from router.providers import wire
from router.providers.pool import client_for


class Answer(Protocol):
    """An answer that has begun."""

    @property
    def status(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, by their names in lower case."""

    async def read(self) -> bytes:
        """Return what has come of the body, at least a byte; ``b""`` at its end.

        Raises:
            one of ``openai_errors.TRANSPORT_ERRORS``: it broke off.
        """


class _HttpxAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._chunks = response.aiter_bytes()

    async def read(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""


@asynccontextmanager
async def post(url: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
    """Send a POST request; leaving the context ends it, and closes the connection unless it is complete.

    Raises:
        one of ``openai_errors.TRANSPORT_ERRORS``, from entering: it cannot be sent, or no answer came.
    """
    if url.startswith("http://"):
        exchange = await wire.post(url, body, headers)
        try:
            yield exchange
        finally:
            exchange.close()
        return
    client = await client_for(url[: url.index("/", len("https://"))])
    request = client.build_request("POST", url, content=body, headers=dict(headers))
    response = await client.send(request, stream=True)
    try:
        yield _HttpxAnswer(response)
    finally:
        await response.aclose()
