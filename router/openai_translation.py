"""``/v1/chat/completions`` for providers that cannot pass it through: requests in, chunks out. Pure.

What passes through keeps the engine's own bytes; this is for the others, whose adapters only ``chat``.
Source: OpenAI's API reference, "Chat Completions" and "Streaming".
"""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

from accounts.errors import InvalidRequest
from router.errors import NotSupported
from router.events import ReasoningEvent, TokenEvent, TokenLogprob, ToolCallEvent, Usage
from router.providers.base import ChatCall, Delta, Finished, Waits
from router.schemas import ChatOptions, parse, unpinned

CHAT_PATH: Final = "/v1/chat/completions"
#: What no adapter can be asked for, and the values that mean the same as nothing.
_NOT_HERE: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "audio": (),
    "modalities": (["text"],),
}
_SAMPLING: Final = (*ChatOptions.model_fields,)
#: OpenAI's words for how much to think, where they are not ours.
_EFFORTS: Final[Mapping[str, bool | str]] = {"none": False, "minimal": "low", "xhigh": "max"}


_KINDS: Final = "response_format.type is text, json_object or json_schema."


# Requests


def chat_call(
    fields: Mapping[str, Any], *, model: str, options: Mapping[str, Any], request_id: str
) -> ChatCall:
    """Return the chat a request asks for.

    Args:
        fields: the request, as ``router.schemas.OpenAIChat`` accepts it.
        model: the name for the provider.
        options: defaults of entry and role; what the request sets wins.
        request_id: unique among requests in flight.

    Raises:
        InvalidRequest, NotSupported: it asks for something that cannot be translated.
    """
    for name, nothing in _NOT_HERE.items():
        if fields.get(name) is not None and fields[name] not in nothing:
            msg = f"The provider that answers has no {name}. Leave it out, or name another model."
            raise NotSupported(msg, param=name)
    return ChatCall(
        model=model,
        messages=fields["messages"],
        options={**options, **_options(fields)},
        format=_format(fields),
        tools=_tools(fields.get("tools")),
        tool_choice=_tool_choice(fields.get("tool_choice")),
        request_id=request_id,
    )


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: fields[name] for name in _SAMPLING if fields.get(name) is not None}
    if fields.get("max_completion_tokens") is not None:
        given["max_tokens"] = fields["max_completion_tokens"]
    think = _think(fields)
    if think is not None:
        given["think"] = think
    if given.get("stop") in ([], ""):
        del given["stop"]
    return parse(ChatOptions, unpinned(given), always_400=True).given()


def _think(fields: Mapping[str, Any]) -> Any:
    effort = fields.get("reasoning_effort")
    if effort is not None:
        return _EFFORTS.get(effort, effort) if isinstance(effort, str) else effort
    switches = fields.get("chat_template_kwargs")
    return switches.get("enable_thinking") if isinstance(switches, Mapping) else None


def format_asked(fields: Mapping[str, Any]) -> str | Mapping[str, Any] | None:
    """Return the format a request asks for: ``json``, a JSON Schema, or None; also for kinds not known here.

    Raises:
        InvalidRequest: it is no format, or lacks its schema.
    """
    given = fields.get("response_format")
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if not isinstance(kind, str):
        raise InvalidRequest(_KINDS, param="response_format")
    if kind != "json_schema":
        return "json" if kind == "json_object" else None
    inner = given.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if isinstance(schema, Mapping):
        return schema
    raise InvalidRequest("It needs a JSON Schema.", param="response_format.json_schema.schema")


def _format(fields: Mapping[str, Any]) -> str | Mapping[str, Any] | None:
    found = format_asked(fields)
    if found is None and (fields.get("response_format") or {}).get("type", "text") != "text":
        raise InvalidRequest(_KINDS, param="response_format")
    return found


def _tools(given: Any) -> list[Mapping[str, Any]] | None:
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise InvalidRequest("tools is a list.", param="tools")
    for place, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not function.get("name"):
            msg = "A tool here is a function with a name."
            raise InvalidRequest(msg, param=f"tools[{place}]")
    return given


def _tool_choice(given: Any) -> str | Mapping[str, Any] | None:
    if given is None or isinstance(given, str | Mapping):
        return given
    raise InvalidRequest("tool_choice is a word or an object.", param="tool_choice")


# Answers


async def translated(
    deltas: AsyncIterator[Delta], call: ChatCall, fields: Mapping[str, Any]
) -> AsyncGenerator[bytes | Waits, None]:
    """Yield the frames of a streamed answer, ``[DONE]`` included; before them what it waits for.

    Raises:
        MhError: whatever ``deltas`` raises; nothing follows then.
    """
    given = fields.get("stream_options")
    counts = isinstance(given, Mapping) and given.get("include_usage") is True
    chunks = _Chunks(call, counts=counts)
    async for delta in deltas:
        if isinstance(delta, Finished):
            yield chunks.finished(delta)
        elif isinstance(delta, Waits):
            yield delta
        else:
            yield chunks.piece(delta)


async def translated_whole(
    deltas: AsyncIterator[Delta], call: ChatCall
) -> AsyncGenerator[bytes | Waits, None]:
    """Yield an answer that is not streamed; before it what it waits for.

    Raises:
        MhError: whatever ``deltas`` raises.
    """
    whole = _Whole()
    async for delta in deltas:
        if isinstance(delta, Waits):
            yield delta
        else:
            whole.add(delta)
    yield _encode({**_head(call, "chat.completion"), **whole.body()})


class _Chunks:
    """Makes chunks of deltas: the role comes with the first."""

    def __init__(self, call: ChatCall, *, counts: bool) -> None:
        self._head = _head(call, "chat.completion.chunk")
        self._counts = counts
        self._begun = False

    def piece(self, event: TokenEvent | ReasoningEvent | ToolCallEvent) -> bytes:
        """Return the frames for a piece of the answer."""
        logprobs = event.get("logprobs", []) if event["type"] == "token" else []
        return self._begin() + self._chunk(_delta(event), logprobs=logprobs)

    def finished(self, end: Finished) -> bytes:
        """Return the last frames: why it ended, what it cost where that was asked for, the end marker."""
        frames = self._begin() + self._chunk({}, end.reason)
        if self._counts:
            frames += _frame({**self._head, "choices": [], "usage": _usage(end.usage)})
        return frames + b"data: [DONE]\n\n"

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: Sequence[TokenLogprob] = (),
    ) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(logprobs),
            "finish_reason": reason,
        }
        usage = {"usage": None} if self._counts else {}
        return _frame({**self._head, "choices": [choice], **usage})


def _delta(event: TokenEvent | ReasoningEvent | ToolCallEvent) -> dict[str, Any]:
    if event["type"] == "token":
        return {"content": event["content"]}
    if event["type"] == "reasoning":
        return {"reasoning": event["content"]}
    piece = event["tool_call"]
    function: dict[str, Any] = {"arguments": piece["arguments"]}
    call: dict[str, Any] = {"index": piece["index"], "function": function}
    if "id" in piece:
        call |= {"id": piece["id"], "type": "function"}
    if "name" in piece:
        function["name"] = piece["name"]
    return {"tool_calls": [call]}


class _Whole:
    """Puts deltas together."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._end: Finished | None = None

    def add(self, delta: TokenEvent | ReasoningEvent | ToolCallEvent | Finished) -> None:
        """Take the next one."""
        if isinstance(delta, Finished):
            self._end = delta
        else:
            self._add(delta)

    def _add(self, event: TokenEvent | ReasoningEvent | ToolCallEvent) -> None:
        if event["type"] == "token":
            self._content.append(event["content"])
            self._logprobs += event.get("logprobs", [])
        elif event["type"] == "reasoning":
            self._reasoning.append(event["content"])
        else:
            piece = event["tool_call"]
            nothing = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            call = self._calls.setdefault(piece["index"], nothing)
            call["id"] = piece.get("id") or call["id"]
            call["function"]["name"] = piece.get("name") or call["function"]["name"]
            call["function"]["arguments"] += piece["arguments"]

    def body(self) -> dict[str, Any]:
        """Return what is particular to this answer."""
        if self._end is None:
            msg = "a chat ended without Finished"
            raise RuntimeError(msg)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self._reasoning:
            message["reasoning"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
            message["content"] = message["content"] or None
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs(self._logprobs),
            "finish_reason": self._end.reason,
        }
        return {"choices": [choice], "usage": _usage(self._end.usage)}


def _head(call: ChatCall, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{call.request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": call.model,
    }


def _logprobs(found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Return the log probabilities of a choice; OpenAI's clients want every field."""
    content = [{"bytes": None, "top_logprobs": [], **entry} for entry in found]
    return {"content": content, "refusal": None} if content else None


def _usage(usage: Usage | None) -> Usage:
    return usage or Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)


def _frame(data: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(data)


def _encode(data: Mapping[str, Any]) -> bytes:
    # ASCII: half of a surrogate pair, which an engine may send, has no UTF-8.
    return json.dumps(data, separators=(",", ":")).encode()
