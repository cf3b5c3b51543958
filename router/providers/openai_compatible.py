"""What adapters have in common whose other side speaks OpenAI's API: vLLM, and anything with a base URL."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import UpstreamGarbled
from router.providers.base import ChatCall, Delta, Provider
from router.providers.openai_errors import (
    REFUSAL_MAX,
    TRANSPORT_ERRORS,
    refusal_error,
    stream_error,
    transport_error,
)
from router.providers.openai_stream import ChatReader, Relay
from router.providers.sending import Answer, post

CHAT_PATH = "/v1/chat/completions"
#: What passes through byte by byte.
OPENAI_PATHS = frozenset({CHAT_PATH, "/v1/completions"})
_DRAIN_SECONDS = 0.25


class OpenAICompatible(Provider):
    """Speaks ``/v1/chat/completions`` and its like."""

    def url(self, target: Target, path: str) -> str:
        """Return the address of ``path``, one of OpenAI's, which begin with ``/v1``."""
        return f"{target.endpoint}{path}"

    def headers(self, target: Target, request_id: str) -> dict[str, str]:
        """Return the headers of a request."""
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        if target.api_key:
            headers["Authorization"] = f"Bearer {target.api_key}"
        return headers

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        """Send a chat, streamed."""
        body = encode(chat_payload(call))
        async with self._send(target, CHAT_PATH, body, call.request_id) as response:
            yield _deltas(response)

    @asynccontextmanager
    async def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a streamed request; pass its frames on."""
        async with self._send(target, path, body, request_id) as response:
            yield _frames(response)

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Send a request that is not streamed."""
        async with self._send(target, path, body, request_id) as response:
            try:
                pieces: list[bytes] = []
                while piece := await response.read():
                    pieces.append(piece)
                answer = b"".join(pieces)
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=True) from exc
        return _checked(answer)

    @asynccontextmanager
    async def _send(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[Answer]:
        sending = post(self.url(target, path), body, self.headers(target, request_id))
        async with contextlib.AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(sending)
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=False) from exc
            if answer.status != HTTPStatus.OK:
                raise await _refused(answer)
            yield answer


def chat_payload(call: ChatCall) -> dict[str, Any]:
    """Return the body of a chat completion request, streamed and with usage."""
    payload: dict[str, Any] = {
        "model": call.model,
        "messages": list(call.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **call.options,
    }
    if call.tools:
        payload["tools"] = list(call.tools)
    if call.tool_choice is not None:
        payload["tool_choice"] = call.tool_choice
    if isinstance(call.format, Mapping):
        schema = {"name": "answer", "schema": dict(call.format), "strict": True}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif call.format == "json":
        payload["response_format"] = {"type": "json_object"}
    return payload


def encode(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as JSON bytes."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


async def _refused(answer: Answer) -> MhError:
    body = b""
    try:
        while len(body) <= REFUSAL_MAX and (piece := await answer.read()):
            body += piece
    except TRANSPORT_ERRORS as exc:
        return transport_error(exc, begun=False)
    return refusal_error(answer.status, body, retry_after=answer.headers.get("retry-after", ""))


async def _deltas(answer: Answer) -> AsyncIterator[Delta]:
    reader = ChatReader()
    try:
        while chunk := await answer.read():
            for delta in reader.feed(chunk):
                yield delta
            if reader.complete:
                await _drain(answer)
                return
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=True) from exc
    for delta in reader.end():
        yield delta


async def _frames(answer: Answer) -> AsyncIterator[bytes]:
    relay = Relay()
    try:
        while chunk := await answer.read():
            if frames := relay.feed(chunk):
                yield frames
            if relay.error:
                raise relay.error
            if relay.complete:
                await _drain(answer)
                return
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=True) from exc
    if rest := relay.end():
        yield rest
    if relay.error:
        raise relay.error


async def _drain(answer: Answer) -> None:
    """Read the end of the body, so that the connection can be used again; not for long."""
    with contextlib.suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await answer.read():
                pass


def _checked(answer: bytes) -> bytes:
    """Return ``answer`` if it is one; some providers send errors under HTTP 200."""
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        raise UpstreamGarbled("The engine sent an answer that cannot be read.") from exc
    if isinstance(data, dict) and data.get("error"):
        raise stream_error(data["error"])
    if not isinstance(data, dict) or not isinstance(data.get("choices"), list):
        raise UpstreamGarbled("The engine sent an answer that cannot be read.")
    return answer
