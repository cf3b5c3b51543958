"""Our answers in Ollama's words: lines of a stream, whole answers, lists. Pure.

Source: Ollama's API reference, and 0.32 as recorded (``tests/fakes/recordings/ollama``).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from router.events import (
    ChatEvent,
    ChatResult,
    DoneEvent,
    Timings,
    TokenEvent,
    ToolCall,
    ToolCallPiece,
    Usage,
)

#: The version of Ollama whose API this is: clients ask for it, and refuse one that is too old.
API_VERSION: Final = "0.32.15"
_NS_PER_MS: Final = 1_000_000
#: Ollama's own word for "stays in memory" is a date far away.
_NEVER: Final = "2319-01-01T00:00:00Z"


class Lines:
    """Makes the lines of one answer, of ``/api/chat`` or of ``/api/generate``."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._model, self._chat = model, chat
        self._calls: dict[int, ToolCall] = {}

    def line(self, event: ChatEvent) -> bytes:
        """Return the line for an event; empty where Ollama says nothing."""
        match event["type"]:
            case "token":
                return _line(self._token(event))
            case "reasoning":
                return _line(self._part("", event["content"]))
            case "tool_call":
                self._add(event["tool_call"])
            case "error":
                return error_line(event["error"])
            case "done":
                return self._done(event)
        return b""

    def empty(self) -> bytes:
        """Return a line that says nothing: what keeps a silent connection alive."""
        return _line(self._part(""))

    def whole(self, result: ChatResult) -> dict[str, Any]:
        """Return an answer that is not streamed."""
        found = self._part(result["content"], result["reasoning"], result["tool_calls"])
        if result.get("logprobs"):
            found["logprobs"] = result["logprobs"]
        end = _end(result["finish_reason"], result["usage"], result["timings"])
        return {**found, **end}

    def load(self) -> dict[str, Any]:
        """Return the answer to a request that only wants the model to be loaded."""
        return {**self._part(""), "done": True, "done_reason": "load"}

    def _token(self, event: TokenEvent) -> dict[str, Any]:
        found = self._part(event["content"])
        return {**found, "logprobs": event["logprobs"]} if "logprobs" in event else found

    def _add(self, piece: ToolCallPiece) -> None:
        call = self._calls.setdefault(piece["index"], ToolCall(id="", name="", arguments=""))
        call["id"] = piece.get("id") or call["id"]
        call["name"] = piece.get("name") or call["name"]
        call["arguments"] += piece["arguments"]

    def _done(self, event: DoneEvent) -> bytes:
        """Return the last line, and before it the tool calls: whole ones, as Ollama's clients expect them."""
        calls = [call for _, call in sorted(self._calls.items())]
        before = _line(self._part("", calls=calls)) if calls else b""
        end = _end(event["finish_reason"], event["usage"], event["timings"])
        return before + _line({**self._part(""), **end})

    def _part(
        self, content: str, thinking: str = "", calls: Sequence[ToolCall] = ()
    ) -> dict[str, Any]:
        head = {"model": self._model, "created_at": now()}
        thought = {"thinking": thinking} if thinking else {}
        called = {"tool_calls": [_call(place, call) for place, call in enumerate(calls)]}
        said = called if calls else {}
        if not self._chat:
            return {**head, "response": content, **thought, **said, "done": False}
        message = {"role": "assistant", "content": content, **thought, **said}
        return {**head, "message": message, "done": False}


def _call(place: int, call: ToolCall) -> dict[str, Any]:
    function = {"index": place, "name": call["name"], "arguments": _arguments(call["arguments"])}
    return {"id": call["id"], "function": function}


def _arguments(text: str) -> dict[str, Any]:
    """Return the object Ollama's clients want; what the model said that is none stands in one, as text."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": text}


def _end(reason: str, usage: Usage | None, timings: Timings) -> dict[str, Any]:
    """Return what a last line has more: times in nanoseconds, tokens."""
    sent = timings["queued_ms"] or 0.0
    first = timings["ttft_ms"] or timings["total_ms"]
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": round(timings["total_ms"] * _NS_PER_MS),
        "load_duration": round(sent * _NS_PER_MS),
        "prompt_eval_count": usage["prompt_tokens"] if usage else 0,
        "prompt_eval_duration": round(max(0.0, first - sent) * _NS_PER_MS),
        "eval_count": usage["completion_tokens"] if usage else 0,
        "eval_duration": round(max(0.0, timings["total_ms"] - first) * _NS_PER_MS),
    }


def error_line(error: Mapping[str, Any]) -> bytes:
    """Return the line that ends a stream that broke off."""
    return _line(flat_error(error))


def flat_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error as Ollama's clients read it: ``error`` is the message, and our fields stand beside."""
    return {"error": error["message"], **{k: v for k, v in error.items() if k != "message"}}


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(tz=UTC).isoformat().replace("+00:00", "Z")


def _line(data: Mapping[str, Any]) -> bytes:
    # ASCII: half of a surrogate pair, which an engine may send, has no UTF-8.
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


# Lists


def tag(name: str, owner: str) -> dict[str, Any]:
    """Return a model as ``/api/tags`` lists it. Sizes and files are the backends' business: 0, and made up."""
    return {
        **_card(name, owner),
        "modified_at": "1970-01-01T00:00:00Z",
    }


def loaded(name: str, owner: str, context_length: int) -> dict[str, Any]:
    """Return a model as ``/api/ps`` lists it."""
    return {
        **_card(name, owner),
        "expires_at": _NEVER,
        "size_vram": 0,
        "context_length": context_length,
    }


def _card(name: str, owner: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "size": 0,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": details(owner),
    }


def details(owner: str) -> dict[str, Any]:
    """Return what a model is, as far as the router knows: who serves it."""
    return {
        "parent_model": "",
        "format": "",
        "family": owner,
        "families": [owner] if owner else [],
        "parameter_size": "",
        "quantization_level": "",
    }


def shown(
    name: str, owner: str, capabilities: Sequence[str], context_length: int
) -> dict[str, Any]:
    """Return a model as ``/api/show`` has it. ``context_length`` is in tokens, 0 where nobody knows."""
    family = owner or "mh"
    info: dict[str, Any] = {"general.architecture": family, "general.basename": name}
    if context_length:
        info[f"{family}.context_length"] = context_length
    return {
        "license": "",
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": details(owner),
        "model_info": info,
        "capabilities": list(capabilities),
        "modified_at": "1970-01-01T00:00:00Z",
    }
