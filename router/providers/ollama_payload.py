"""Chats in Ollama's words: the body of ``/api/chat``. Pure. Source: Ollama's API reference."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.errors import NotSupported
from router.providers.base import ChatCall

#: Ours, then Ollama's. What is not here, Ollama has not.
_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "max_tokens": "num_predict",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
    "num_ctx": "num_ctx",
}
_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.I)
#: Ollama's words for how much to think; of OpenAI's others, the nearest.
_LEVELS: Final[Mapping[str, bool | str]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def encode(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as JSON bytes. ASCII: half of a surrogate pair has no UTF-8."""
    return json.dumps(payload, separators=(",", ":")).encode()


def chat_payload(call: ChatCall) -> dict[str, Any]:
    """Return the body of a chat; a prompt too long is to be refused, not cut in silence.

    Raises:
        NotSupported: it has something Ollama cannot take.
    """
    options = call.options
    payload: dict[str, Any] = {
        "model": call.model,
        "messages": messages(call.messages),
        "stream": True,
        "truncate": False,
        "options": engine_options(options),
        **_beside(options),
    }
    if tools := offered_tools(call.tools, call.tool_choice):
        payload["tools"] = tools
    if isinstance(call.format, Mapping):
        payload["format"] = dict(call.format)
    elif call.format == "json":
        payload["format"] = "json"
    return payload


def engine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``options`` of a request; None is unset, and 0 is a value."""
    found = {
        theirs: options[ours] for ours, theirs in _OPTIONS.items() if options.get(ours) is not None
    }
    if isinstance(found.get("stop"), str):
        found["stop"] = [found["stop"]]
    # For others -1 is "no limit"; Ollama's is 0.
    if found.get("top_k") == -1:
        found["top_k"] = 0
    return found


def _beside(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands beside ``options`` in a request."""
    found: dict[str, Any] = {}
    if options.get("keep_alive") is not None:
        found["keep_alive"] = options["keep_alive"]
    think = options.get("think")
    if think is not None:
        found["think"] = think if isinstance(think, bool) else _LEVELS.get(str(think), True)
    if options.get("logprobs"):
        found["logprobs"] = True
        if options.get("top_logprobs"):
            found["top_logprobs"] = options["top_logprobs"]
    return found


def offered_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    """Return the tools to offer. Ollama knows no ``tool_choice``: ``none`` offers none, a name only that one."""
    if not tools or choice == "none":
        return []
    if not isinstance(choice, Mapping):
        return list(tools)
    function = choice.get("function")
    wanted = function.get("name") if isinstance(function, Mapping) else None
    return [tool for tool in tools if _name(tool) == wanted]


def _name(tool: Mapping[str, Any]) -> Any:
    function = tool.get("function")
    return function.get("name") if isinstance(function, Mapping) else None


def messages(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages of OpenAI's API as Ollama has them.

    Raises:
        NotSupported: an image is somewhere on the network.
    """
    names: dict[str, str] = {}
    return [_message(message, names, place) for place, message in enumerate(given)]


def _message(message: Mapping[str, Any], names: dict[str, str], place: int) -> dict[str, Any]:
    role = message.get("role")
    text, images = _content(message.get("content"), place)
    found: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": text}
    if images:
        found["images"] = images
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        found["tool_calls"] = [_call(call, names) for call in calls if isinstance(call, Mapping)]
    if role in {"tool", "function"}:
        found["role"] = "tool"
        call_id = str(message.get("tool_call_id") or "")
        found["tool_name"] = names.get(call_id) or message.get("name") or ""
        if call_id:
            found["tool_call_id"] = call_id
    return found


def _content(content: Any, place: int) -> tuple[str, list[str]]:
    if not isinstance(content, list):
        return content or "", []
    texts: list[str] = []
    images: list[str] = []
    for index, part in enumerate(content):
        kind = str(part.get("type")) if isinstance(part, Mapping) else ""
        where = f"messages[{place}].content[{index}]"
        if kind in {"text", "input_text"}:
            texts.append(str(part.get("text") or ""))
        elif kind == "image_url":
            images.append(_image(part.get("image_url"), where))
        else:
            msg = f"Ollama takes texts and images, not {kind[:40]!r}."
            raise NotSupported(msg, param=where)
    return "\n".join(texts), images


def _image(image: Any, where: str) -> str:
    """Return the bare base64 of a data URL."""
    url = image.get("url") if isinstance(image, Mapping) else image
    start = _DATA_URL.match(url) if isinstance(url, str) else None
    if start is None:
        msg = (
            "Ollama does not fetch images. Send the image itself, as a data URL: "
            "data:image/png;base64,…"
        )
        raise NotSupported(msg, param=where)
    return str(url)[start.end() :]


def _call(call: Mapping[str, Any], names: dict[str, str]) -> dict[str, Any]:
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    name = str(function.get("name") or "")
    found: dict[str, Any] = {"function": {"name": name, "arguments": _arguments(function)}}
    if call.get("id"):
        found["id"] = str(call["id"])
        names[found["id"]] = name
    return found


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments as the object Ollama wants; what is none is passed on as text in one."""
    given = function.get("arguments")
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except (ValueError, RecursionError):
            return {"arguments": given}
    return dict(given) if isinstance(given, Mapping) else {}
