"""The events of a chat, as every surface sends them: in ``/ws/chat/`` frames and in ``/api/chat`` streams.

A chat is perhaps ``queued``, ``start``, any number of ``token``, ``reasoning`` and ``tool_call``, and
then exactly one ``done`` or ``error``.
"""

from typing import Literal, NotRequired, TypedDict

from accounts.errors import ErrorBody


class Usage(TypedDict):
    """Tokens counted by the engine."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(TypedDict):
    """Milliseconds since the request arrived; None for what did not happen."""

    #: Until the request was sent to the engine.
    queued_ms: float | None
    #: Until the first piece of the answer, reasoning included.
    ttft_ms: float | None
    total_ms: float


class Tried(TypedDict):
    """Who was asked before the one who answers, and did not."""

    #: Id in the registry; empty for what is asked for by its own name.
    entry: str
    provider: str
    model: str
    #: Why not.
    message: str


class StartEvent(TypedDict):
    """The engine has accepted the request."""

    type: Literal["start"]
    model: str
    provider: str
    #: None where a cloud answers.
    backend: str | None
    request_id: str
    #: Id in the registry of what answers, where it has one.
    entry: NotRequired[str]
    #: Those of the chain that were asked before and failed; who was known to be off was not asked.
    tried: NotRequired[list[Tried]]
    #: How many of the oldest messages were left out, where the role's context policy is ``trim``.
    trimmed: NotRequired[int]


class QueuedEvent(TypedDict):
    """The request waits while the engine starts or switches."""

    type: Literal["queued"]
    position: int
    eta_seconds: float | None
    reason: str


class TokenLogprob(TypedDict):
    """How likely a token was, and others in its place; as in OpenAI's API."""

    token: str
    logprob: float
    bytes: NotRequired[list[int] | None]
    top_logprobs: NotRequired[list["TokenLogprob"]]


class TokenEvent(TypedDict):
    """A piece of the answer."""

    type: Literal["token"]
    content: str
    #: Of the tokens in this piece, where they were asked for and the engine says them.
    logprobs: NotRequired[list[TokenLogprob]]


class ReasoningEvent(TypedDict):
    """A piece of what the model thinks before it answers; never part of the answer."""

    type: Literal["reasoning"]
    content: str


class ToolCallPiece(TypedDict):
    """A piece of a tool call; ``arguments`` of the same ``index`` are joined by the client."""

    index: int
    id: NotRequired[str]
    name: NotRequired[str]
    arguments: str


class ToolCallEvent(TypedDict):
    """The model calls a tool."""

    type: Literal["tool_call"]
    tool_call: ToolCallPiece


class DoneEvent(TypedDict):
    """The answer is complete, or was cancelled by the client (``finish_reason: "cancelled"``)."""

    type: Literal["done"]
    finish_reason: str
    usage: Usage | None
    timings: Timings


class ErrorEvent(TypedDict):
    """The answer broke off; what came before it is not the whole."""

    type: Literal["error"]
    error: ErrorBody


ChatEvent = (
    StartEvent | QueuedEvent | TokenEvent | ReasoningEvent | ToolCallEvent | DoneEvent | ErrorEvent
)


class ToolCall(TypedDict):
    """A whole tool call."""

    id: str
    name: str
    arguments: str


class ChatResult(TypedDict):
    """A chat that was not streamed."""

    content: str
    reasoning: str
    tool_calls: list[ToolCall]
    model: str
    provider: str
    backend: str | None
    finish_reason: str
    usage: Usage | None
    timings: Timings
    request_id: str
    logprobs: NotRequired[list[TokenLogprob]]
    trimmed: NotRequired[int]
