"""Putting the events of a chat together, for those who want it when it is complete."""

from typing import Final

from accounts.errors import MhError
from router.events import (
    ChatEvent,
    ChatResult,
    DoneEvent,
    ErrorEvent,
    StartEvent,
    TokenLogprob,
    ToolCall,
    ToolCallPiece,
)

_STATUSES: Final = {"unavailable_error": 503, "invalid_request_error": 400}


class Answer:
    """Puts the events of a chat together."""

    def __init__(self) -> None:
        self._text: dict[str, list[str]] = {"token": [], "reasoning": []}
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, list[ToolCallPiece]] = {}
        self._start: StartEvent | None = None
        self._done: DoneEvent | None = None

    def add(self, event: ChatEvent) -> None:
        """Take the next event; an ``error`` is raised."""
        match event["type"]:
            case "start":
                self._start = event
            case "token":
                self._text["token"].append(event["content"])
                self._logprobs += event.get("logprobs", [])
            case "reasoning":
                self._text["reasoning"].append(event["content"])
            case "tool_call":
                self._calls.setdefault(event["tool_call"]["index"], []).append(event["tool_call"])
            case "done":
                self._done = event
            case "error":
                raise _RelayedError(event)

    def result(self) -> ChatResult:
        """Return the whole, after ``done``."""
        if self._start is None or self._done is None:
            msg = "a chat ended without done or error"
            raise RuntimeError(msg)
        result = ChatResult(
            content="".join(self._text["token"]),
            reasoning="".join(self._text["reasoning"]),
            tool_calls=[_whole_call(pieces) for _, pieces in sorted(self._calls.items())],
            model=self._start["model"],
            provider=self._start["provider"],
            backend=self._start["backend"],
            finish_reason=self._done["finish_reason"],
            usage=self._done["usage"],
            timings=self._done["timings"],
            request_id=self._start["request_id"],
        )
        if self._logprobs:
            result["logprobs"] = self._logprobs
        if "trimmed" in self._start:
            result["trimmed"] = self._start["trimmed"]
        return result


class _RelayedError(MhError):
    """An ``error`` event, for callers who want an exception."""

    def __init__(self, event: ErrorEvent) -> None:
        error = event["error"]
        super().__init__(error["message"], code=error["code"], param=error["param"])
        self.type = error["type"]
        self.status = _STATUSES.get(error["type"], 502)


def _whole_call(pieces: list[ToolCallPiece]) -> ToolCall:
    return ToolCall(
        id=next((piece["id"] for piece in pieces if "id" in piece), ""),
        name=next((piece["name"] for piece in pieces if "name" in piece), ""),
        arguments="".join(piece["arguments"] for piece in pieces),
    )
