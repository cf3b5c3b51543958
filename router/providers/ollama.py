"""Ollama by its own API, so that keep-alive, context, thinking, images and tools work.

Source: Ollama's API reference, and 0.24 and 0.32 as recorded (``tests/fakes/recordings/ollama``).
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import httpx

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import UpstreamGarbled
from router.providers.base import (
    Capabilities,
    ChatCall,
    Delta,
    EmbeddingCall,
    Embeddings,
    Provider,
)
from router.providers.ollama_completion import (
    COMPLETIONS_PATH,
    CompletionFrames,
    completion_payload,
    completion_whole,
)
from router.providers.ollama_errors import refusal_error
from router.providers.ollama_payload import chat_payload, encode
from router.providers.ollama_stream import LineReader, OllamaReader, frame_error, usage_of
from router.providers.openai_errors import REFUSAL_MAX, TRANSPORT_ERRORS, transport_error
from router.providers.pool import client_for

#: Seconds Ollama may take to answer what generates nothing.
_QUICK_SECONDS: Final = 10.0


class Ollama(Provider):
    """Ollama's server."""

    name: ClassVar[str] = "ollama"
    title: ClassVar[str] = "Ollama"
    #: Ollama's own ``/v1`` is left alone: it loads the model again where an entry pins a context, and
    #: breaks off in silence. Chats are translated from what ``chat`` yields.
    capabilities: ClassVar[Capabilities] = Capabilities(
        openai_paths=frozenset({COMPLETIONS_PATH}),
        tools=True,
        images=True,
        embeddings=True,
        schemas=True,
    )

    async def check(self, target: Target) -> str:
        """Ask for the version."""
        answer = await _object(target, "GET", "/api/version")
        return f"Ollama {answer.get('version') or 'of an unknown version'} answers."

    async def models(self, target: Target) -> Sequence[str]:
        """Ask for what is in the store."""
        found = (await _object(target, "GET", "/api/tags")).get("models")
        entries = found if isinstance(found, list) else []
        names = [entry.get("model") or entry.get("name") for entry in entries if _is_object(entry)]
        return [name for name in names if isinstance(name, str)]

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        """Send a chat, streamed. Ollama sends nothing, not even headers, before its first token."""
        body = chat_payload(call)
        async with _send(target, "POST", "/api/chat", body, call.request_id) as response:
            yield _deltas(response, OllamaReader(call.model, call.request_id))

    @asynccontextmanager
    async def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer a streamed ``/v1/completions`` by ``/api/generate``, the prompt as it is."""
        asked = _completion(self, path, body)
        async with _send(
            target, "POST", "/api/generate", completion_payload(asked, stream=True), request_id
        ) as response:
            yield _completion_frames(response, CompletionFrames(asked, request_id))

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Answer ``/v1/completions`` by ``/api/generate``, the prompt as it is."""
        asked = _completion(self, path, body)
        payload = completion_payload(asked, stream=False)
        answer = await _object(target, "POST", "/api/generate", payload, request_id)
        return completion_whole(answer, asked, request_id)

    async def embed(self, target: Target, call: EmbeddingCall) -> Embeddings:
        """Ask ``/api/embed``; a text that is too long is refused, not cut."""
        body: dict[str, Any] = {"model": call.model, "input": list(call.texts), "truncate": False}
        if call.dimensions is not None:
            body["dimensions"] = call.dimensions
        answer = await _object(target, "POST", "/api/embed", body, call.request_id)
        vectors = answer.get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(call.texts):
            raise UpstreamGarbled("Ollama sent an answer that cannot be read.")
        return Embeddings(vectors, usage_of(answer))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _completion(provider: Provider, path: str, body: bytes) -> Mapping[str, Any]:
    if path != COMPLETIONS_PATH:
        raise provider.unsupported(path)
    asked: Mapping[str, Any] = json.loads(body)
    return asked


@asynccontextmanager
async def _send(
    target: Target, method: str, path: str, body: Mapping[str, Any] | None, request_id: str
) -> AsyncIterator[httpx.Response]:
    client = await client_for(target.endpoint)
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    content = encode(body) if body is not None else None
    timeout = _QUICK_SECONDS if method == "GET" else httpx.USE_CLIENT_DEFAULT
    request = client.build_request(
        method, f"{target.endpoint}{path}", content=content, headers=headers, timeout=timeout
    )
    try:
        response = await client.send(request, stream=True)
    except TRANSPORT_ERRORS as exc:
        raise transport_error(exc, begun=False) from exc
    try:
        if response.status_code != httpx.codes.OK:
            raise await _refused(response, str((body or {}).get("model") or ""))
        yield response
    finally:
        await response.aclose()


async def _refused(response: httpx.Response, model: str) -> MhError:
    body = b""
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > REFUSAL_MAX:
                break
    except TRANSPORT_ERRORS as exc:
        return transport_error(exc, begun=False)
    retry_after = response.headers.get("retry-after", "")
    return refusal_error(response.status_code, body, model=model, retry_after=retry_after)


async def _object(
    target: Target,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    request_id: str = "",
) -> dict[str, Any]:
    """Send a request; return the object that answers it."""
    async with _send(target, method, path, body, request_id) as response:
        try:
            answer = await response.aread()
        except TRANSPORT_ERRORS as exc:
            raise transport_error(exc, begun=True) from exc
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        raise UpstreamGarbled("Ollama sent an answer that cannot be read.") from exc
    if not isinstance(found, dict):
        raise UpstreamGarbled("Ollama sent an answer that cannot be read.")
    if found.get("error"):
        raise frame_error(found["error"], str((body or {}).get("model") or ""))
    return found


async def _deltas(response: httpx.Response, reader: OllamaReader) -> AsyncIterator[Delta]:
    try:
        async for chunk in response.aiter_raw():
            for delta in reader.feed(chunk):
                yield delta
    except TRANSPORT_ERRORS as exc:
        # What is complete stays so: the engine may have ended right after its end marker.
        if not reader.complete:
            raise transport_error(exc, begun=True) from exc
    for delta in reader.end():
        yield delta


async def _completion_frames(
    response: httpx.Response, frames: CompletionFrames
) -> AsyncIterator[bytes]:
    lines = LineReader(str(frames.model))
    try:
        async for chunk in response.aiter_raw():
            for line in lines.feed(chunk):
                yield frames.frame(line)
    except TRANSPORT_ERRORS as exc:
        if not lines.complete:
            raise transport_error(exc, begun=True) from exc
    for line in lines.end():
        yield frames.frame(line)
    yield frames.last()
