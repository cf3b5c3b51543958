"""OpenAI's Responses API, translated to a chat and back. Pure.

Always translated, for every provider alike: engines that have the API differ in what they keep and in which
events they send. Nothing is kept here: each request carries its whole conversation.
Source: OpenAI's API reference, "Responses" and its "Streaming events".
"""

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from accounts.errors import InvalidRequest, MhError
from router.errors import NotSupported
from router.events import ChatEvent, ChatResult, ToolCallPiece, Usage
from router.schemas import Lenient, Name

_STATELESS: Final = "Nothing is kept here between requests: send the whole conversation as input, and leave out {name}."
#: Our word for an effort of reasoning.
_THINK: Final[Mapping[str | None, bool | str]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
#: Compared, not hashed: what a client sends in their place may be anything.
_TEXTS: Final = ("input_text", "output_text", "text")
_DETAILS: Final = ("auto", "low", "high")
#: Why an answer is not whole, by the finish reason.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class TextSetting(Lenient):
    """``text``: the format of the answer."""

    format: dict[str, Any] | None = None


class ReasoningSetting(Lenient):
    """``reasoning``: how much of it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class OpenAIResponse(Lenient):
    """``POST /v1/responses``."""

    model: Name | None = None
    input: (
        Annotated[str, Field(min_length=1)] | Annotated[list[dict[str, Any]], Field(min_length=1)]
    )
    instructions: str | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1, le=10_000_000)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: TextSetting | None = None
    reasoning: ReasoningSetting | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, Any] | None = None


# -- the request


def chat_fields(asked: OpenAIResponse) -> dict[str, Any]:
    """Return the fields of the ``ChatRequest`` that asks the same.

    Raises:
        NotSupported: it needs something that is kept, or a tool that is run, by OpenAI itself.
        InvalidRequest: an item of the input is not what the API says.
    """
    _refuse_state(asked)
    options = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "max_tokens": asked.max_output_tokens,
        "think": _THINK.get(asked.reasoning.effort) if asked.reasoning else None,
    }
    fields = {
        "model": asked.model,
        "messages": _messages(asked),
        "options": {name: value for name, value in options.items() if value is not None},
        "stream": bool(asked.stream),
        "format": _format(asked.text.format if asked.text else None),
        "tools": [_tool(tool, f"tools[{n}]") for n, tool in enumerate(asked.tools or ())] or None,
        "tool_choice": _tool_choice(asked.tool_choice),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _refuse_state(asked: OpenAIResponse) -> None:
    extra = asked.model_extra or {}
    for name, value in (
        ("previous_response_id", asked.previous_response_id),
        ("store", asked.store),
        ("background", asked.background),
        ("conversation", extra.get("conversation")),
        ("prompt", extra.get("prompt")),
    ):
        if value:
            raise NotSupported(_STATELESS.format(name=name), param=name)
    if asked.truncation == "auto":
        raise NotSupported(
            "Whether old messages are left out is a setting of the role here. Leave out truncation.",
            param="truncation",
        )


def _messages(asked: OpenAIResponse) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if asked.instructions:
        messages.append({"role": "system", "content": asked.instructions})
    if isinstance(asked.input, str):
        return [*messages, {"role": "user", "content": asked.input}]
    for index, item in enumerate(asked.input):
        _add(messages, item, f"input[{index}]")
    if not messages:
        raise InvalidRequest(
            "input has nothing to answer: add a message.", code="nothing_to_answer", param="input"
        )
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """Add what one item of the input says."""
    match item.get("type", "message"):
        case "message":
            content = _content(item.get("content"), f"{where}.content")
            messages.append({"role": item.get("role", "user"), "content": content})
        case "function_call":
            _add_call(messages, item, where)
        case "function_call_output":
            output = _content(item.get("output"), f"{where}.output")
            call_id = _text_of(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case "reasoning":
            pass  # models are not shown what they thought before
        case kind:
            raise NotSupported(
                f"Items of the type {str(kind)[:60]!r} cannot be used here.", param=where
            )


def _add_call(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    """Add a call of a tool; several in a row belong to one message."""
    function = {
        "name": _text_of(item, "name", where),
        "arguments": _text_of(item, "arguments", where),
    }
    call = {"id": _text_of(item, "call_id", where), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1] = {
            **messages[-1],
            "tool_calls": [*messages[-1].get("tool_calls", ()), call],
        }
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text_of(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{where}.{name} must be a text.",
            code="missing_field" if value is None else None,
            param=f"{where}.{name}",
        )
    return value


def _content(content: object, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where} must be a text or a list of parts.", param=where)
    parts = [_part(part, f"{where}[{index}]") for index, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        # Plain text is what every engine takes.
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: object, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in _TEXTS:
        return {"type": "text", "text": _text_of(part, "text", where)}
    if isinstance(part, Mapping) and kind == "refusal":
        return {"type": "text", "text": _text_of(part, "refusal", where)}
    if isinstance(part, Mapping) and kind == "input_image":
        image: dict[str, Any] = {"url": _text_of(part, "image_url", where)}
        if not image["url"]:
            msg = f"{where}.image_url is empty. Send a data: URL."
            raise InvalidRequest(msg, code="invalid_image", param=f"{where}.image_url")
        if part.get("detail") in _DETAILS:
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    raise NotSupported(f"Parts of the type {str(kind)[:60]!r} cannot be used here.", param=where)


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise NotSupported(
            f"Tools of the type {str(tool.get('type'))[:60]!r} are OpenAI's own. Send functions.",
            param=where,
        )
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") != "function":
        raise NotSupported("Only a function can be chosen here.", param="tool_choice")
    return {"type": "function", "function": {"name": choice.get("name")}}


def _format(wanted: Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    kind = wanted.get("type", "text") if wanted else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    schema = wanted.get("schema") if wanted else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise InvalidRequest(
            'text.format is {"type": "text"}, {"type": "json_object"} or '
            '{"type": "json_schema", "name", "schema"}.',
            param="text.format",
        )
    return schema


# -- the answer


class ResponseWriter:
    """Turns the events of a chat into those of a response, and keeps the whole of it.

    Items of the output come in the order in which they begin: reasoning, the message, calls of tools.
    """

    def __init__(self, asked: OpenAIResponse, request_id: str) -> None:
        self._asked = asked
        self._id = request_id
        self._created = int(time.time())
        self._model = asked.model or ""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        #: The item that is being written, and the pieces of its text.
        self._item: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._calls: dict[int, int] = {}

    def feed(self, event: ChatEvent) -> list[bytes]:
        """Return the frames that ``event`` makes; after those of ``done`` or ``error`` no more come."""
        match event["type"]:
            case "start":
                return self._begin(event["model"])
            case "token" | "reasoning":
                return self._text(_KIND[event["type"]], event["content"])
            case "tool_call":
                return self._call(event["tool_call"])
            case "done":
                return self._done(event["finish_reason"], event["usage"])
            case "error":
                return [self._failed(event["error"]["message"])]
            case _:
                return []

    def failed(self, error: MhError) -> bytes:
        """Return the last frame of a response that broke off."""
        return self._failed(error.message)

    def _failed(self, message: str) -> bytes:
        # The API knows no code that says more, and clients accept no other.
        error = {"code": "server_error", "message": message}
        return self._frame("response.failed", response={**self._response("failed"), "error": error})

    def whole(self, result: ChatResult) -> dict[str, Any]:
        """Return the response for a chat that was not streamed."""
        self._model = result["model"]
        for kind, text in (("reasoning", result["reasoning"]), ("message", result["content"])):
            if text:
                self._text(kind, text)
        for index, call in enumerate(result["tool_calls"]):
            piece = ToolCallPiece(
                index=index, id=call["id"], name=call["name"], arguments=call["arguments"]
            )
            self._call(piece)
        self._close("incomplete" if result["finish_reason"] in _INCOMPLETE else "completed")
        return self._ended(result["finish_reason"], result["usage"])

    def _begin(self, model: str) -> list[bytes]:
        self._model = model
        response = self._response("in_progress")
        names = ("response.created", "response.in_progress")
        return [self._frame(name, response=response) for name in names]

    # items

    def _text(self, kind: str, text: str) -> list[bytes]:
        frames: list[bytes] = []
        if self._item is None or self._item["type"] != kind:
            frames = [*self._close(), *self._open_text(kind)]
        self._pieces.append(text)
        name = "output_text" if kind == "message" else "reasoning_text"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return [
            *frames,
            self._frame(
                f"response.{name}.delta", **self._here(), content_index=0, delta=text, **more
            ),
        ]

    def _open_text(self, kind: str) -> list[bytes]:
        position = len(self._output)
        item: dict[str, Any] = {"type": kind, "id": f"{_PREFIX[kind]}_{self._id}_{position}"}
        more: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        item |= more
        item |= {"status": "in_progress", "content": []}
        added = self._open(item)
        part = _part_of(kind, "")
        return [
            added,
            self._frame("response.content_part.added", **self._here(), content_index=0, part=part),
        ]

    def _open(self, item: dict[str, Any]) -> bytes:
        self._item, self._pieces = item, []
        self._output.append(item)
        return self._frame(
            "response.output_item.added", output_index=len(self._output) - 1, item=dict(item)
        )

    def _call(self, piece: ToolCallPiece) -> list[bytes]:
        frames: list[bytes] = []
        if piece["index"] not in self._calls:
            frames = self._close()
            self._calls[piece["index"]] = len(self._output)
            call_id = piece.get("id") or f"call_{self._id}_{piece['index']}"
            item: dict[str, Any] = {
                "type": "function_call",
                "id": f"fc_{self._id}_{len(self._output)}",
            }
            item |= {"call_id": call_id, "name": piece.get("name", ""), "arguments": ""}
            item |= {"status": "in_progress"}
            frames.append(self._open(item))
        if not piece["arguments"]:
            return frames
        if self._output[self._calls[piece["index"]]] is not self._item:
            return (
                frames  # a piece of a call that has been followed by another: no engine sends that
            )
        self._pieces.append(piece["arguments"])
        name = "response.function_call_arguments.delta"
        return [*frames, self._frame(name, **self._here(), delta=piece["arguments"])]

    def _close(self, status: str = "completed") -> list[bytes]:
        """End the item that is being written."""
        item = self._item
        if item is None:
            return []
        here, text = self._here(), "".join(self._pieces)
        self._item = None
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = text
            name = "response.function_call_arguments.done"
            frames = [self._frame(name, **here, name=item["name"], arguments=text)]
        else:
            frames = self._close_text(item, here, text)
        done = self._frame(
            "response.output_item.done", output_index=here["output_index"], item=dict(item)
        )
        return [*frames, done]

    def _close_text(self, item: dict[str, Any], here: dict[str, Any], text: str) -> list[bytes]:
        part = _part_of(item["type"], text)
        item["content"] = [part]
        name = "output_text" if item["type"] == "message" else "reasoning_text"
        more: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
        return [
            self._frame(f"response.{name}.done", **here, content_index=0, text=text, **more),
            self._frame("response.content_part.done", **here, content_index=0, part=part),
        ]

    def _here(self) -> dict[str, Any]:
        item = self._item or {}
        return {"item_id": item.get("id", ""), "output_index": len(self._output) - 1}

    # the whole

    def _done(self, reason: str, usage: Usage | None) -> list[bytes]:
        frames = self._close("incomplete" if reason in _INCOMPLETE else "completed")
        response = self._ended(reason, usage)
        return [*frames, self._frame(f"response.{response['status']}", response=response)]

    def _ended(self, reason: str, usage: Usage | None) -> dict[str, Any]:
        cut = _INCOMPLETE.get(reason)
        response = self._response("incomplete" if cut else "completed")
        if cut:
            response["incomplete_details"] = {"reason": cut}
        if usage:
            response["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            }
        return response

    def _response(self, status: str) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self._model,
            "output": list(self._output),
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": (asked.text and asked.text.format) or {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": asked.tools or [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _frame(self, kind: str, **fields: Any) -> bytes:
        body = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        data = json.dumps(body, separators=(",", ":")).encode()
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


_KIND: Final = {"token": "message", "reasoning": "reasoning"}
_PREFIX: Final = {"message": "msg", "reasoning": "rs"}


def _part_of(kind: str, text: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "reasoning_text", "text": text}
