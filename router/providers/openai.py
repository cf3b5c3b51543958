"""Anything on the network with an OpenAI-compatible base URL: OpenAI, OpenRouter, Groq, LM Studio, llama.cpp's server."""

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from backends.engines.base import Target
from router.providers.base import Capabilities, ProviderSettings
from router.providers.openai_compatible import OPENAI_PATHS, OpenAICompatible


class OpenAISettings(ProviderSettings):
    """Where the API is, and the key to it."""

    base_url: str = Field(
        "https://api.openai.com/v1",
        alias="baseUrl",
        title="Base URL",
        description="Up to and with the version: https://api.openai.com/v1, http://127.0.0.1:1234/v1.",
        max_length=512,
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        alias="apiKey",
        title="API key",
        description="Empty for servers that ask for none.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "give a URL that begins with http:// or https://"
            raise ValueError(msg)
        if parts.username or parts.password or parts.query or parts.fragment:
            msg = "give a URL without user, password, query or fragment; the key has a field of its own"
            raise ValueError(msg)
        return value.rstrip("/")


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
