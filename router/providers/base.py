"""What a provider adapter is: the contract of the plug-ins under the entry-point group ``metahuman.providers``.

An adapter speaks one protocol. It never decides where to send a request, never retries, and never
touches the database. Foreign errors are mapped here, once, to the errors of ``router.errors``; each says
whether another attempt can help (``MhError.retryable``).
Closing what it returns closes the upstream connection at once, which makes an engine stop generating;
a provider whose jobs outlive their connection (RunPod) cancels the job instead.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from backends.engines.base import Target
from router.errors import NotSupported
from router.events import ReasoningEvent, TokenEvent, ToolCallEvent, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One chat to send, in terms no provider owns."""

    model: str
    #: As OpenAI's API has them.
    messages: Sequence[Mapping[str, Any]]
    #: By the names of OpenAI's API, and ``router.schemas.ChatOptions``; only what is set.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: None or ``text``, ``json``, or a JSON Schema the answer must follow.
    format: str | Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    #: Unique among requests in flight; sent along, so that the engine's log can be matched to ours.
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCall:
    """Texts to embed."""

    model: str
    texts: Sequence[str]
    dimensions: int | None = None
    request_id: str


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector for each text, in their order."""

    vectors: Sequence[Sequence[float]]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider said that the answer is complete."""

    reason: str
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """The provider has taken the request, and says what it waits for: a queue, a cold start."""

    reason: str
    #: Place in the provider's queue; 0 where it does not say.
    position: int = 0
    eta_seconds: float | None = None


Delta = TokenEvent | ReasoningEvent | ToolCallEvent | Waits | Finished


class ProviderSettings(BaseModel):
    """Where a provider is and how it is paid: what an owner enters once. Secrets are ``SecretStr``.

    The form, the REST validation and the JSON Schema are made from it. Titles and descriptions are for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the protocol has. What a model has, its registry entry says."""

    #: Paths of OpenAI's API the adapter answers in OpenAI's own bytes; elsewhere they pass through. A
    #: chat at any other is translated (``router.openai_translation``).
    openai_paths: frozenset[str] = frozenset()
    tools: bool = False
    images: bool = False
    embeddings: bool = False
    #: JSON Schemas constrain the decoding; elsewhere the schema is only said and checked.
    schemas: bool = False
    #: ``count`` works.
    counts_tokens: bool = False
    #: An engine may leave a model's reasoning in the text, and not say where it begins
    #: (``router.reasoning``).
    reasons_in_text: bool = False


class Provider(ABC):
    """One protocol. Instances hold no state of requests."""

    #: What registry entries call it.
    name: ClassVar[str]
    #: For people.
    title: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    #: None for providers that are engines of ours: their address is their backend's.
    Settings: ClassVar[type[ProviderSettings] | None] = None

    def target(self, settings: Any) -> Target:
        """Return where requests go, from an instance of ``Settings``; ``options`` of it is that instance.

        Raises:
            InvalidProvider: something that is needed is not set.
        """
        raise NotImplementedError

    def capabilities_of(self, target: Target) -> Capabilities:
        """Return what works at ``target``: ``capabilities``, or less of it where its settings say so."""
        del target
        return self.capabilities

    async def check(self, target: Target) -> str:
        """Try the credentials without generating anything; return a sentence on what was found.

        Raises:
            MhError: they do not work; the message says which one, and what to do.
        """
        del target
        return ""

    async def models(self, target: Target) -> Sequence[str]:
        """Return the models the provider offers, as far as it says; may be empty.

        Raises:
            MhError: it could not be asked.
        """
        del target
        return ()

    @abstractmethod
    def chat(
        self, target: Target, call: ChatCall
    ) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        """Send a chat. Entering it raises what the engine refuses; the iterator ends after ``Finished``.

        ``Waits`` may come before the first piece of the answer, and only there.

        Raises:
            MhError: from entering, the engine refused or is away; from iterating, it broke off. An
                iterator that ends without ``Finished`` does not exist.
        """

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return our options, only what is set, by the names of the protocol's ``openai_paths``.

        They are put into a request that passes through, beside what the client set.
        """
        return dict(options)

    def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a streamed OpenAI request; iterate over its frames, whole and unchanged, ``[DONE]`` included.

        Only for the paths in ``capabilities.openai_paths``.

        Raises:
            MhError: as for ``chat``.
        """
        del target, body, request_id
        raise self.unsupported(path)

    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Send an OpenAI request that is not streamed; return the body of the answer, unchanged.

        Only for the paths in ``capabilities.openai_paths``.

        Raises:
            MhError: the engine refused, is away, or broke off.
        """
        del target, body, request_id
        raise self.unsupported(path)

    async def embed(self, target: Target, call: EmbeddingCall) -> Embeddings:
        """Return a vector for each text.

        Raises:
            MhError: as for ``ask``.
        """
        del target, call
        raise self.unsupported("embeddings")

    async def count(self, target: Target, call: ChatCall) -> tuple[int, int]:
        """Return the tokens of the prompt and the tokens of the model's context; 0 where unknown.

        Only where ``capabilities.counts_tokens``.

        Raises:
            MhError: as for ``ask``.
        """
        del target, call
        raise self.unsupported("counting tokens")

    def unsupported(self, what: str) -> NotSupported:
        """Return the error for something this protocol does not have."""
        msg = f"{self.title} has no {what}. Name a model of another provider for that."
        return NotSupported(msg)
