"""What clients of Ollama send, as requests of ours. Pure.

As Ollama does it, keys nobody knows are read over, and so are options that make an engine load its model
again (``num_ctx``, ``keep_alive``, ``num_gpu``…): entries and roles set those, for everybody.
Source: Ollama's API reference.
"""

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field

from accounts.errors import InvalidRequest
from router.errors import NotSupported
from router.schemas import MESSAGES_MAX, NAME_MAX, ChatRequest, Lenient, Name, parse

LATEST: Final = ":latest"
_ROLE: Final = "role:"
#: Ollama's names of options, then ours. Others are read over.
_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_INTEGERS: Final = ("top_k", "seed", "num_predict")
#: What ``/api/generate`` has and a chat has not.
_RAW: Final = ("suffix", "template", "context", "raw")
#: First bytes of images, and their types. The first is what is not known.
_IMAGES: Final[Mapping[bytes, str]] = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


class _Generation(Lenient):
    model: Name
    stream: bool | None = None
    #: Empty is none, here and in ``think``.
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | Literal["", "low", "medium", "high", "max"] | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class _ToolFunction(Lenient):
    name: str
    arguments: dict[str, Any] = {}


class _ToolCall(Lenient):
    id: str | None = None
    function: _ToolFunction


class _Message(Lenient):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChat(_Generation):
    """``POST /api/chat``."""

    messages: list[_Message] | None = Field(None, max_length=MESSAGES_MAX)
    tools: list[dict[str, Any]] | None = None


class OllamaGenerate(_Generation):
    """``POST /api/generate``."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None


class OllamaEmbed(Lenient):
    """``POST /api/embed``, and with ``prompt`` in place of ``input`` ``/api/embeddings``."""

    model: Name
    input: str | list[str] | None = None
    prompt: str | None = None
    dimensions: int | None = Field(None, ge=1)

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        given = self.prompt if self.input is None else self.input
        return given if isinstance(given, list) else [given] if given else []


class OllamaShow(Lenient):
    """``POST /api/show``. ``name`` is the older word."""

    model: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A parsed request of ``/api/chat`` or ``/api/generate``."""

    #: As the client wrote it; answers say it again.
    name: str
    chat: ChatRequest
    stream: bool
    #: Nothing to answer: Ollama's way to ask for a model to be loaded.
    is_load: bool = False


def spelled(name: str) -> str:
    """Return what a client calls ``model``, without the tag it may have put behind a role."""
    return name.removesuffix(LATEST) if name.startswith(_ROLE) else name


def otherwise(name: str) -> str | None:
    """Return the other spelling of a name: ``x`` is ``x:latest`` for Ollama; None where it has none."""
    if name.startswith(_ROLE):
        return None
    if name.endswith(LATEST):
        return name.removesuffix(LATEST) or None
    has_tag, is_long = ":" in name.rpartition("/")[2], len(name + LATEST) > NAME_MAX
    return None if has_tag or is_long else name + LATEST


def chat_asked(data: Mapping[str, Any], model: str | None = None) -> Asked:
    """Return what a body of ``/api/chat`` asks for; ``model`` is another spelling of its name.

    Raises:
        InvalidRequest, Invalid: it is no such body.
    """
    body = parse(OllamaChat, data, always_400=True)
    messages = _messages(body.messages or [])
    more = {"tools": body.tools} if body.tools else {}
    return _asked(body, messages, model, is_load=not body.messages, **more)


def generate_asked(data: Mapping[str, Any], model: str | None = None) -> Asked:
    """Return what a body of ``/api/generate`` asks for; ``model`` is another spelling of its name.

    Raises:
        InvalidRequest, Invalid: it is no such body.
        NotSupported: it wants the prompt to pass by the model's own template.
    """
    body = parse(OllamaGenerate, data, always_400=True)
    for name in _RAW:
        if data.get(name):
            msg = f"{name} is not possible here. Use /ollama/api/chat, or /v1/completions for a raw prompt."
            raise NotSupported(msg, param=name)
    messages: list[dict[str, Any]] = (
        [{"role": "system", "content": body.system}] if body.system else []
    )
    messages.append({"role": "user", "content": _content(body.prompt, body.images, "images")})
    return _asked(body, messages, model, is_load=not body.prompt and not body.images)


def _asked(
    body: _Generation,
    messages: list[dict[str, Any]],
    model: str | None,
    *,
    is_load: bool,
    **more: Any,
) -> Asked:
    if is_load and body.keep_alive is not None and _is_zero(body.keep_alive):
        msg = "This site decides when a model leaves memory. Its owner does that with: mh backend stop"
        raise NotSupported(msg, param="keep_alive")
    fields = {
        "model": spelled(model or body.model),
        # A load is let in like a chat, and never sent.
        "messages": messages if not is_load else [{"role": "user", "content": ""}],
        "options": _options(body),
        "format": body.format or None,
        **more,
    }
    stream = body.stream is not False
    return Asked(body.model, parse(ChatRequest, fields, always_400=True), stream, is_load)


def _is_zero(keep_alive: float | str) -> bool:
    return str(keep_alive).rstrip("hms") in {"0", "0.0"}


def _options(body: _Generation) -> dict[str, Any]:
    given = body.options or {}
    found = {
        ours: _number(given[theirs], theirs)
        for theirs, ours in _OPTIONS.items()
        if given.get(theirs) not in (None, [], "")
    }
    limit = found.get("max_tokens")
    if isinstance(limit, int) and limit <= 0:  # no limit
        del found["max_tokens"]
    if body.think not in {None, ""}:
        found["think"] = body.think
    if body.logprobs:
        found |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    return found


def _number(value: Any, name: str) -> Any:
    """Return a value; JSON of other languages has 128.0 for 128."""
    whole = name in _INTEGERS and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


# Messages


def _messages(given: Sequence[_Message]) -> list[dict[str, Any]]:
    waiting: list[tuple[str, str]] = []
    return [_message(message, waiting, place) for place, message in enumerate(given)]


def _message(message: _Message, waiting: list[tuple[str, str]], place: int) -> dict[str, Any]:
    """Return one message; ``waiting`` are the id and name of calls nobody has answered yet."""
    content = _content(message.content, message.images, f"messages[{place}].images")
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        found["tool_calls"] = [
            _call(call, waiting, f"call_{place}_{index}")
            for index, call in enumerate(message.tool_calls)
        ]
    if message.role == "tool":
        found["tool_call_id"] = message.tool_call_id or _answered(message.tool_name, waiting, place)
    return found


def _call(call: _ToolCall, waiting: list[tuple[str, str]], made_up: str) -> dict[str, Any]:
    call_id = call.id or made_up
    name = call.function.name
    waiting.append((call_id, name))
    arguments = json.dumps(call.function.arguments, ensure_ascii=False)
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _answered(name: str | None, waiting: list[tuple[str, str]], place: int) -> str:
    """Return the id of the call a result belongs to: Ollama's clients know it by its name, or by its turn."""
    matching = [call for call in waiting if call[1] == name] or waiting
    if not matching:
        return f"call_{place}"
    first = matching[0]
    waiting.remove(first)
    return first[0]


def _content(text: str | None, images: list[str] | None, where: str) -> str | list[dict[str, Any]]:
    if not images:
        return text or ""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for index, image in enumerate(images):
        url = _data_url(image, f"{where}[{index}]")
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _data_url(image: str, where: str) -> str:
    try:
        start = b64decode(image[:16], validate=True)
    except (binascii.Error, ValueError):
        msg = "An image is its bytes in base64, without anything before them."
        raise InvalidRequest(msg, code="invalid_image", param=where) from None
    kind = next((kind for mark, kind in _IMAGES.items() if start.startswith(mark)), "image/png")
    return f"data:{kind};base64,{image}"
