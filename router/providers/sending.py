"""Sends a request to an OpenAI-compatible server: over ``wire`` where it is plain HTTP, else by httpx."""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from router.providers import wire
from router.providers.pool import client_for


class Answer(Protocol):
    """An answer that has begun: what httpx's and ``wire``'s have in common, by httpx's names.

    Reading raises one of ``openai_errors.TRANSPORT_ERRORS`` where it breaks off.
    """

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers; ask for them in lower case."""

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Iterate over what comes of the body, as it comes."""

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over the body, unpacked."""

    async def aread(self) -> bytes:
        """Return the body."""

    async def aclose(self) -> None:
        """Be done with it; the connection is closed unless it is complete."""


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Send a POST request; close what is returned.

    Raises:
        one of ``openai_errors.TRANSPORT_ERRORS``: it cannot be sent, or no answer came.
    """
    if url.startswith("http://"):
        return await wire.post(url, body, headers)
    scheme, _, rest = url.partition("://")
    client = await client_for(f"{scheme}://{rest.partition('/')[0]}")
    request = client.build_request("POST", url, content=body, headers=dict(headers))
    return await client.send(request, stream=True)
