"""Small questions to a provider's API: one request, one answer, read whole."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from router.errors import UpstreamGarbled
from router.providers.openai_errors import TRANSPORT_ERRORS, refusal_error, transport_error
from router.providers.pool import client_for
from router.providers.retry_after import wait_asked

#: Seconds an answer may take, connecting included.
ANSWER_SECONDS: Final = 30.0
#: Longest answer that is read, in bytes; a chunk of RunPod's stream may have 1 MB, an answer many.
ANSWER_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            UpstreamGarbled: it is none.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise UpstreamGarbled("The provider sent an answer that cannot be read.") from exc


async def exchange(
    method: str,
    url: str,
    *,
    endpoint: str,
    headers: Mapping[str, str],
    content: bytes | None = None,
    seconds: float = ANSWER_SECONDS,
) -> Answer:
    """Send one request and return the answer, whatever its status.

    Args:
        endpoint: whose connections are used: one pool for all of a provider.
        seconds: for the whole of it.

    Raises:
        httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError: ``TRANSPORT_ERRORS``, unmapped: what they mean depends
            on whether the request may have been taken.
        UpstreamGarbled: the answer has no end.
    """
    client = await client_for(endpoint)
    request = client.build_request(method, url, content=content, headers=dict(headers))
    async with asyncio.timeout(seconds):
        response = await client.send(request, stream=True)
        try:
            body = await _read(response)
        finally:
            await response.aclose()
    return Answer(response.status_code, response.headers, body)


async def ask(url: str, *, endpoint: str, headers: Mapping[str, str]) -> Answer:
    """GET ``url``; return the answer, whatever its status.

    Raises:
        MhError: there was none.
    """
    try:
        return await exchange("GET", url, endpoint=endpoint, headers=headers)
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=False) from exc


async def model_names(url: str, *, endpoint: str, headers: Mapping[str, str]) -> list[str] | None:
    """Return the ids ``GET …/models`` lists; None where the provider has no such path.

    Raises:
        MhError: it could not be asked, or refused.
    """
    answer = await ask(url, endpoint=endpoint, headers=headers)
    if answer.status in {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED}:
        return None
    if answer.status != httpx.codes.OK:
        raise refusal_error(answer.status, answer.body, retry_after=wait_asked(answer.headers))
    data = answer.json()
    cards = data.get("data") if isinstance(data, dict) else data
    if not isinstance(cards, list):
        return None
    names = [card["id"] for card in cards if isinstance(card, dict) and "id" in card]
    return [name for name in names if isinstance(name, str)]


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        parts.append(chunk)
        size += len(chunk)
        if size > ANSWER_MAX:
            raise UpstreamGarbled("The provider sent an answer without end.")
    return b"".join(parts)
