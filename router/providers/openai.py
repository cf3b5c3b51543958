"""Anything on the network with an OpenAI-compatible base URL: OpenAI, OpenRouter, Groq, LM Studio, llama.cpp's server."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from accounts.errors import MhError
from backends.engines.base import Target
from router.errors import ProviderRefused
from router.providers.addresses import BaseUrl
from router.providers.base import Capabilities, ChatCall, ProviderSettings
from router.providers.exchange import model_names
from router.providers.openai_compatible import CHAT_PATH, OPENAI_PATHS, OpenAICompatible, encode

#: Hosts of OpenAI's own API. Source: OpenAI's API reference, "Chat", ``max_completion_tokens``.
_OWN_HOSTS: Final = (".openai.com", ".openai.azure.com")
#: What compatible engines have and OpenAI's own API refuses.
_NOT_OPENAIS: Final = frozenset({"top_k", "min_p", "repetition_penalty"})
_LOOKED_FOR: Final = tuple(f'"{name}"'.encode() for name in ("max_tokens", *sorted(_NOT_OPENAIS)))


class OpenAISettings(ProviderSettings):
    """Where the API is, and the key to it."""

    base_url: BaseUrl = Field(
        "https://api.openai.com/v1",
        alias="baseUrl",
        title="Base URL",
        description="Up to and with the version: https://api.openai.com/v1, http://127.0.0.1:1234/v1.",
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        alias="apiKey",
        title="API key",
        description="Empty for servers that ask for none.",
    )
    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"] = Field(
        "auto",
        alias="maxTokensField",
        title="Name of the limit",
        description=(
            "What this API calls the longest answer. auto: max_completion_tokens for OpenAI itself, "
            "whose reasoning models refuse the other, and max_tokens elsewhere."
        ),
    )

    @property
    def is_openais(self) -> bool:
        """Whether this is OpenAI's own API, not one like it."""
        return f".{urlsplit(self.base_url).hostname}".endswith(_OWN_HOSTS)

    @property
    def limit_name(self) -> str:
        """The name of the limit, decided."""
        if self.max_tokens_field != "auto":
            return self.max_tokens_field
        return "max_completion_tokens" if self.is_openais else "max_tokens"


class OpenAI(OpenAICompatible):
    """An OpenAI-compatible API somebody else runs."""

    name: ClassVar[str] = "openai"
    title: ClassVar[str] = "OpenAI-compatible API"
    capabilities: ClassVar[Capabilities] = Capabilities(
        openai_paths=OPENAI_PATHS, tools=True, images=True, embeddings=True, schemas=True
    )
    Settings = OpenAISettings

    def target(self, settings: OpenAISettings) -> Target:
        """Return the base URL with its key."""
        key = settings.api_key.get_secret_value()
        return Target(endpoint=settings.base_url, api_key=key, options=settings)

    def url(self, target: Target, path: str) -> str:
        """Return the address of ``path``: the version is part of the base URL."""
        return f"{target.endpoint}{path.removeprefix('/v1')}"

    def refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
        """Return the error for an answer that is not 200; a key is that of an account here."""
        error = super().refused(status, body, headers)
        if error.code == ProviderRefused.code:
            error.message = (
                "The provider refused the key of this account. The site's owner must check it: "
                "mh provider test."
            )
        return error

    def payload(self, target: Target, call: ChatCall) -> dict[str, Any]:
        """Return the body of a chat, with the limit by the name this API has for it."""
        return _adapted(target, super().payload(target, call))

    @asynccontextmanager
    async def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Pass a streamed request on."""
        async with super().relay(target, path, _passed(target, path, body), request_id) as frames:
            yield frames

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Pass a request on."""
        return await super().ask(target, path, _passed(target, path, body), request_id)

    async def check(self, target: Target) -> str:
        """Ask for the list of models, which needs the key and generates nothing."""
        names = await self._models(target)
        if names is None:
            return "It answers, and has no list of models: the key could not be tried."
        return f"The key works; {len(names)} models are offered."

    async def models(self, target: Target) -> Sequence[str]:
        """Return the models listed."""
        return await self._models(target) or ()

    async def _models(self, target: Target) -> list[str] | None:
        return await model_names(
            self.url(target, "/v1/models"),
            endpoint=target.endpoint,
            headers=self.headers(target, "check"),
        )


def _passed(target: Target, path: str, body: bytes) -> bytes:
    """Return ``body``, unchanged wherever that will do."""
    if path != CHAT_PATH or not any(name in body for name in _LOOKED_FOR):
        return body
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return body
    adapted = _adapted(target, asked) if isinstance(asked, dict) else asked
    return body if adapted == asked else encode(adapted)


def _adapted(target: Target, asked: dict[str, Any]) -> dict[str, Any]:
    """Return a chat's request with the limit by its name here, and without what OpenAI itself refuses."""
    settings = target.options
    if not isinstance(settings, OpenAISettings):
        return asked
    left_out = _NOT_OPENAIS if settings.is_openais else frozenset()
    adapted = {key: value for key, value in asked.items() if key not in left_out}
    if settings.limit_name not in adapted and "max_tokens" in adapted:
        adapted[settings.limit_name] = adapted.pop("max_tokens")
    return adapted
