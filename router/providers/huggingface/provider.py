"""Hugging Face as a provider."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, ClassVar, Final, TypeVar

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import InvalidProvider
from router.providers.base import Capabilities, ChatCall, Delta, EmbeddingCall, Embeddings, Waits
from router.providers.exchange import ask, model_names
from router.providers.huggingface import errors
from router.providers.huggingface.errors import Loading, NoChatRoute
from router.providers.huggingface.settings import HuggingFaceSettings
from router.providers.huggingface.tgi import TgiReader, generate_payload, read_whole
from router.providers.openai_compatible import (
    CHAT_PATH,
    OPENAI_PATHS,
    OpenAICompatible,
    chat_payload,
    encode,
    read_deltas,
)
from router.providers.openai_errors import TRANSPORT_ERRORS, transport_error

#: The model's name where an endpoint serves one and its name is not known: TGI takes it always.
ANY_MODEL: Final = "tgi"
#: Longest time the proxy is asked to hold one request, in seconds: less than connections between us are cut after.
HOLD_MAX: Final = 55
#: First and longest pause between two tries where the proxy does not hold, in seconds.
PAUSE_MIN: Final = 1.0
PAUSE_MAX: Final = 10.0
_GENERATE: Final = "/"
_NO_MODEL: Final = b'"model":""'

_Opened = TypeVar("_Opened")


@dataclass(frozen=True, slots=True)
class _Held:
    """Settings, and how many seconds the proxy is asked to hold a request for a replica to be ready."""

    settings: HuggingFaceSettings
    seconds: int


class HuggingFace(OpenAICompatible):
    """Inference Endpoints and Inference Providers."""

    name: ClassVar[str] = "huggingface"
    title: ClassVar[str] = "Hugging Face"
    capabilities: ClassVar[Capabilities] = Capabilities(
        openai_paths=OPENAI_PATHS, tools=True, images=True, embeddings=True, schemas=True
    )
    Settings = HuggingFaceSettings

    def target(self, settings: HuggingFaceSettings) -> Target:
        """Return the endpoint, or the router where none is set."""
        key = settings.api_key.get_secret_value()
        if not key and not settings.endpoint_url:
            raise InvalidProvider("Give a token of Hugging Face's, or an endpoint.", param="apiKey")
        endpoint = settings.endpoint_url.removesuffix("/v1") or settings.router_url
        return Target(endpoint=endpoint, api_key=key, options=settings)

    def capabilities_of(self, target: Target) -> Capabilities:
        """Return less for TGI's classic API, and for the router, which has chats only."""
        settings = _settings(target)
        if not settings.endpoint_url:
            chats = frozenset({CHAT_PATH})
            return replace(self.capabilities, openai_paths=chats, embeddings=False)
        return Capabilities() if settings.api == "tgi" else self.capabilities

    def url(self, target: Target, path: str) -> str:
        """Return the address of ``path``; the router's has the version already."""
        own = bool(_settings(target).endpoint_url)
        return f"{target.endpoint}{path if own else path.removeprefix('/v1')}"

    def headers(self, target: Target, request_id: str) -> dict[str, str]:
        """Return the headers of a request: who pays, and how long to hold it."""
        headers = super().headers(target, request_id)
        if bill_to := _settings(target).bill_to:
            headers["X-HF-Bill-To"] = bill_to
        if isinstance(target.options, _Held):
            headers["X-Scale-Up-Timeout"] = str(target.options.seconds)
        return headers

    def payload(self, target: Target, call: ChatCall) -> dict[str, Any]:
        """Return the body of a chat."""
        del target
        return {**chat_payload(call), "model": call.model or ANY_MODEL}

    def refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
        """Return the error for an answer that is not 200."""
        return errors.refused(status, body, headers)

    async def check(self, target: Target) -> str:
        """Try the token at the Hub, and an endpoint by its ``/health``, which starts it where it has scaled to zero."""
        settings = _settings(target)
        found: list[str] = []
        if target.api_key:
            found.append(await self._whoami(target, settings))
        if settings.endpoint_url:
            found.append(await self._endpoint_health(target))
        else:
            found.append(f"{len(await self.models(target))} models are offered.")
        return " ".join(found)

    async def models(self, target: Target) -> Sequence[str]:
        """Return the models the router, or the endpoint's container, lists."""
        url = self.url(target, "/v1/models")
        headers = self.headers(target, "check")
        return await model_names(url, endpoint=target.endpoint, headers=headers) or ()

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        """Send a chat. While the endpoint's model loads, ``Waits`` comes first."""
        async with AsyncExitStack() as stack:

            async def attempt(held: Target) -> AsyncIterator[Delta]:
                return await self._opened(stack, held, call)

            try:
                deltas = await attempt(target)
            except Loading:
                if not _patience(target):
                    raise
                waiting = aclosing(self._when_ready(target, attempt))
                deltas = await stack.enter_async_context(waiting)
            yield deltas

    @asynccontextmanager
    async def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pass a streamed request on, when the endpoint is ready."""
        named = _with_model(body)
        async with AsyncExitStack() as stack:

            async def attempt(held: Target) -> AsyncIterator[bytes]:
                relayed = OpenAICompatible.relay(self, held, path, named, request_id)
                return await stack.enter_async_context(relayed)

            yield await self._patiently(target, attempt)

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Pass a request on, when the endpoint is ready."""

        async def attempt(held: Target) -> bytes:
            return await OpenAICompatible.ask(self, held, path, _with_model(body), request_id)

        return await self._patiently(target, attempt)

    async def embed(self, target: Target, call: EmbeddingCall) -> Embeddings:
        """Ask the endpoint, when it is ready."""

        async def attempt(held: Target) -> Embeddings:
            return await OpenAICompatible.embed(self, held, call)

        return await self._patiently(target, attempt)

    async def _opened(
        self, stack: AsyncExitStack, target: Target, call: ChatCall
    ) -> AsyncIterator[Delta]:
        settings = _settings(target)
        classic = settings.api if settings.endpoint_url else "openai"
        if classic != "tgi":
            try:
                sent = OpenAICompatible.chat(self, target, call)
                return await stack.enter_async_context(sent)
            except NoChatRoute:
                if classic == "openai":
                    raise
        return await stack.enter_async_context(self._generate(target, call))

    @asynccontextmanager
    async def _generate(
        self, target: Target, call: ChatCall
    ) -> AsyncIterator[AsyncIterator[Delta]]:
        body = encode(generate_payload(call, _settings(target).max_tokens))
        async with self._send(target, _GENERATE, body, call.request_id) as response:
            if "json" not in response.headers.get("content-type", ""):
                yield read_deltas(response, TgiReader())
                return
            try:
                whole = await response.aread()
            except TRANSPORT_ERRORS as exc:
                raise transport_error(exc, begun=True) from exc
            yield _each(read_whole(whole))

    async def _when_ready(
        self, target: Target, attempt: Callable[[Target], Awaitable[AsyncIterator[Delta]]]
    ) -> AsyncGenerator[Delta, None]:
        async for held in _tries(target):
            yield Waits("the endpoint at Hugging Face is starting")
            try:
                deltas = await attempt(held)
            except Loading:
                continue
            async for delta in deltas:
                yield delta
            return
        raise errors.still_loading(_patience(target))

    async def _patiently(
        self, target: Target, attempt: Callable[[Target], Awaitable[_Opened]]
    ) -> _Opened:
        """Return what ``attempt`` returns, trying again while the endpoint loads."""
        try:
            return await attempt(target)
        except Loading:
            if not _patience(target):
                raise
        async for held in _tries(target):
            with suppress(Loading):
                return await attempt(held)
        raise errors.still_loading(_patience(target))

    async def _whoami(self, target: Target, settings: HuggingFaceSettings) -> str:
        url = f"{settings.hub_url}/api/whoami-v2"
        headers = {"Authorization": f"Bearer {target.api_key}"}
        answer = await ask(url, endpoint=settings.hub_url, headers=headers)
        if answer.status != HTTPStatus.OK:
            raise self.refused(answer.status, answer.body, answer.headers)
        data = answer.json()
        name = data.get("name") if isinstance(data, dict) else None
        return f"The token works; it is {name}'s." if isinstance(name, str) else "The token works."

    async def _endpoint_health(self, target: Target) -> str:
        headers = self.headers(target, "check")
        url = f"{target.endpoint}/health"
        answer = await ask(url, endpoint=target.endpoint, headers=headers)
        if answer.status == HTTPStatus.OK:
            return "The endpoint is ready."
        error = self.refused(answer.status, answer.body, answer.headers)
        if isinstance(error, Loading):
            return "The endpoint had scaled to zero, or loads its model; it is starting."
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            return "The endpoint answers."
        raise error


def _settings(target: Target) -> HuggingFaceSettings:
    options = target.options.settings if isinstance(target.options, _Held) else target.options
    if not isinstance(options, HuggingFaceSettings):
        msg = "a target of Hugging Face's is made by HuggingFace.target"
        raise TypeError(msg)
    return options


def _with_model(body: bytes) -> bytes:
    """Return ``body`` with a model where an entry names none: an endpoint serves one, under any name."""
    if _NO_MODEL not in body:
        return body
    asked = json.loads(body)
    return body if asked.get("model") else encode({**asked, "model": ANY_MODEL})


def _patience(target: Target) -> int:
    """Return how long a request waits for a replica, in seconds; the router has none to wait for."""
    settings = _settings(target)
    return settings.scale_up_timeout if settings.endpoint_url else 0


async def _tries(target: Target) -> AsyncGenerator[Target, None]:
    """Yield what to send to, again after each pause, as long as the endpoint is waited for.

    Nothing runs twice: what the proxy refuses has reached no container.
    """
    loop = asyncio.get_running_loop()
    left = float(_patience(target))
    deadline, pause = loop.time() + left, PAUSE_MIN
    while left > 0:
        seconds = max(1, min(HOLD_MAX, int(left)))
        yield replace(target, options=_Held(_settings(target), seconds))
        await asyncio.sleep(min(pause, max(deadline - loop.time(), 0)))
        pause = min(pause * 1.5, PAUSE_MAX)
        left = deadline - loop.time()


async def _each(deltas: Sequence[Delta]) -> AsyncIterator[Delta]:
    for delta in deltas:
        yield delta
