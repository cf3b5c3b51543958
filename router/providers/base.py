"""What a provider adapter is.

An adapter speaks one protocol. It never decides where to send a request, never retries, and never
touches the database. Foreign errors are mapped here, once, to the errors of ``router.errors``.
Closing what it returns closes the upstream connection at once, which makes an engine stop generating.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from backends.engines.base import Target
from router.events import ReasoningEvent, TokenEvent, ToolCallEvent, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCall:
    """One chat to send, in terms no provider owns."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    #: By the names of OpenAI's API; only what is set.
    options: Mapping[str, Any] = field(default_factory=dict)
    format: str | Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | Mapping[str, Any] | None = None
    #: Unique among requests in flight; sent along, so that the engine's log can be matched to ours.
    request_id: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider said that the answer is complete."""

    reason: str
    usage: Usage | None = None


Delta = TokenEvent | ReasoningEvent | ToolCallEvent | Finished


class Provider(ABC):
    """One protocol. Instances hold no state of requests."""

    @abstractmethod
    def chat(
        self, target: Target, call: ChatCall
    ) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        """Send a chat. Entering it raises what the engine refuses; the iterator ends after ``Finished``.

        Raises:
            MhError: from entering, the engine refused or is away; from iterating, it broke off. An
                iterator that ends without ``Finished`` does not exist.
        """

    @abstractmethod
    def relay(
        self, target: Target, path: str, body: bytes, request_id: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a streamed OpenAI request; iterate over its frames, whole and unchanged, ``[DONE]`` included.

        Raises:
            MhError: as for ``chat``.
        """

    @abstractmethod
    async def ask(self, target: Target, path: str, body: bytes, request_id: str) -> bytes:
        """Send an OpenAI request that is not streamed; return the body of the answer, unchanged.

        Raises:
            MhError: the engine refused, is away, or broke off.
        """
