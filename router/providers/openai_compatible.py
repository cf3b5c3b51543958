"""What adapters have in common whose other side speaks OpenAI's API: vLLM, and anything with a base URL."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Protocol

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import NotSupported, UpstreamGarbled
from router.providers.base import ChatCall, Delta, EmbeddingCall, Embeddings, Provider
from router.providers.frames import Frames, drain
from router.providers.openai_errors import (
    REFUSAL_MAX,
    TRANSPORT_ERRORS,
    has_no_embeddings,
    refusal_error,
    stream_error,
    transport_error,
)
from router.providers.openai_options import openai_options
from router.providers.openai_stream import ChatReader, usage_of
from router.providers.retry_after import wait_asked
from router.providers.sending import Answer, post

CHAT_PATH = "/v1/chat/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
#: What passes through byte by byte.
OPENAI_PATHS = frozenset({CHAT_PATH, "/v1/completions", EMBEDDINGS_PATH})
#: The list that holds the answer, by path.
_LISTS = {EMBEDDINGS_PATH: "data"}


class OpenAICompatible(Provider):
    """Speaks ``/v1/chat/completions`` and its like."""

    def url(self, target: Target, path: str) -> str:
        """Return the address of ``path``, one of OpenAI's, which begin with ``/v1``."""
        return f"{target.endpoint}{path}"

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return our options by the names of the API."""
        return openai_options(options)

    def headers(self, target: Target, request_id: str) -> dict[str, str]:
        """Return the headers of a request."""
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        if target.api_key:
            headers["Authorization"] = f"Bearer {target.api_key}"
        return headers

    def payload(self, target: Target, call: ChatCall) -> dict[str, Any]:
        """Return the body of a chat completion request, streamed and with usage."""
        del target
        return chat_payload(call)

    def refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
        """Return the error for an answer that is not 200; at most ``REFUSAL_MAX`` bytes of it are read."""
        return refusal_error(status, body, retry_after=wait_asked(headers))

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        """Send a chat, streamed."""
        asked = replace(call, options=self.options(call.options))
        body = encode(self.payload(target, asked))
        async with self._send(target, CHAT_PATH, body, call.request_id) as response:
            await streamed(response)
            yield read_deltas(response, ChatReader())

    def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a streamed request; pass its frames on."""
        return _Relayed(self._send(target, path, body, request_id))

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Send a request that is not streamed."""
        return _checked(await self.post(target, path, body, request_id), path)

    async def post(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Send a request; return the body of the answer, whatever it is. Raises as ``ask``."""
        async with self._send(target, path, body, request_id) as response:
            try:
                return await response.aread()
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=True) from exc

    async def embed(self, target: Target, call: EmbeddingCall) -> Embeddings:
        """Return a vector for each text."""
        payload: dict[str, Any] = {
            "model": call.model,
            "input": list(call.texts),
            "encoding_format": "float",
        }
        if call.dimensions is not None:
            payload["dimensions"] = call.dimensions
        answer = await self.ask(target, EMBEDDINGS_PATH, encode(payload), call.request_id)
        return _embeddings(json.loads(answer))

    def _send(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AbstractAsyncContextManager[Answer]:
        return _Sent(self, target, path, body, request_id)

    async def refusal(self, response: Answer, path: str) -> MhError:
        """Return the error for an answer that is not 200."""
        body = b""
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > REFUSAL_MAX:
                    break
        except TRANSPORT_ERRORS as exc:
            return transport_error(exc, begun=False)
        if path == EMBEDDINGS_PATH and has_no_embeddings(response.status_code, body):
            return NotSupported(
                "The model that answers makes no embeddings. Name an embedding model.",
                param="model",
            )
        return self.refused(response.status_code, body, response.headers)


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
        schema = {"name": "answer", "schema": dict(call.format), "strict": is_strict(call.format)}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif call.format == "json":
        payload["response_format"] = {"type": "json_object"}
    return payload


def is_strict(schema: object) -> bool:
    """Say whether OpenAI takes a schema as ``strict``: every object is closed, and needs all it has.

    It refuses others so. Engines that constrain all schemas do not look at this.
    Source: OpenAI's guide "Structured Outputs", "Supported schemas".
    """
    if isinstance(schema, list):
        return all(is_strict(item) for item in schema)
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, Mapping):
        names = set(properties) if isinstance(properties, Mapping) else set()
        required = schema.get("required")
        needed = set(required) if isinstance(required, list) else set()
        if schema.get("additionalProperties") is not False or names != needed:
            return False
    return all(is_strict(item) for item in schema.values())


def encode(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as JSON bytes."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


class _Sent:
    """A request, and its answer, which has begun. A class, since a generator costs more for each request."""

    def __init__(
        self, provider: OpenAICompatible, target: Target, path: str, body: bytes, request_id: str
    ) -> None:
        self._provider, self._path, self._body = provider, path, body
        self._url = provider.url(target, path)
        self._headers = provider.headers(target, request_id)
        self._response: Answer | None = None

    async def __aenter__(self) -> Answer:
        try:
            response = await post(self._url, self._body, self._headers)
        except TRANSPORT_ERRORS as exc:
            raise transport_error(exc, begun=False) from exc
        if response.status_code != HTTPStatus.OK:
            try:
                raise await self._provider.refusal(response, self._path)
            finally:
                await response.aclose()
        self._response = response
        return response

    async def __aexit__(self, *error: object) -> None:
        if self._response is not None:
            await self._response.aclose()


class _Relayed:
    """The frames of a streamed answer."""

    def __init__(self, sent: AbstractAsyncContextManager[Answer]) -> None:
        self._sent = sent

    async def __aenter__(self) -> AsyncIterator[bytes]:
        response = await self._sent.__aenter__()
        try:
            await streamed(response)
        except BaseException as exc:
            await self._sent.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return Frames(response)

    async def __aexit__(self, *error: Any) -> None:
        await self._sent.__aexit__(*error)


class StreamReader(Protocol):
    """Reads one protocol's stream from bytes cut anywhere."""

    complete: bool

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas in ``data``."""

    def end(self) -> list[Delta]:
        """Say that no more bytes come; return what that completes."""


async def streamed(response: Answer) -> None:
    """Return if ``response`` is a stream; some providers answer with an error as JSON, under HTTP 200.

    Raises:
        MhError: it is none.
    """
    if "json" not in response.headers.get("content-type", ""):
        return
    try:
        _checked(await response.aread(), CHAT_PATH)
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=True) from exc
    raise UpstreamGarbled("The engine did not stream its answer.")


async def read_deltas(response: Answer, reader: StreamReader) -> AsyncIterator[Delta]:
    """Yield what ``reader`` finds in the body, to its end marker.

    Raises:
        MhError: it broke off, or carries an error.
    """
    chunks = response.aiter_raw()
    try:
        async for chunk in chunks:
            for delta in reader.feed(chunk):
                yield delta
            if reader.complete:
                await drain(chunks)
                return
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=True) from exc
    for delta in reader.end():
        yield delta


def _checked(answer: bytes, path: str) -> bytes:
    """Return ``answer`` if it is one; some providers send errors under HTTP 200."""
    try:
        data = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        raise _garbled() from exc
    if isinstance(data, dict) and data.get("error"):
        raise stream_error(data["error"])
    if not isinstance(data, dict) or not isinstance(data.get(_LISTS.get(path, "choices")), list):
        raise _garbled()
    return answer


def _embeddings(answer: Mapping[str, Any]) -> Embeddings:
    """Return the vectors, in the order of the texts: each says which it belongs to."""
    try:
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [[float(number) for number in row["embedding"]] for row in rows]
    except (KeyError, TypeError, ValueError) as exc:
        raise _garbled() from exc
    return Embeddings(vectors, usage_of(dict(answer)))


def _garbled() -> UpstreamGarbled:
    return UpstreamGarbled("The engine sent an answer that cannot be read.")
