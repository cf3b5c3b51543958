"""``/v1/completions`` in Ollama's words, and its answers in OpenAI's. Pure.

The prompt goes to the model as it is (``raw``), as it does with other engines.
"""

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from accounts.errors import InvalidRequest
from router.errors import NotSupported, UpstreamGarbled
from router.providers.ollama_payload import engine_options
from router.providers.ollama_stream import finish_reason, usage_of

COMPLETIONS_PATH: Final = "/v1/completions"
#: What Ollama has not, and the value that means the same as nothing.
_NOT_HERE: Final[Mapping[str, Any]] = {"n": 1, "best_of": 1, "echo": False, "suffix": ""}


def completion_payload(asked: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """Return the body of ``/api/generate`` for a request of ``/v1/completions``.

    Raises:
        InvalidRequest, NotSupported: it has something Ollama cannot take.
    """
    for name, nothing in _NOT_HERE.items():
        if asked.get(name) not in (None, nothing):
            raise NotSupported(f"Ollama has no {name} for completions. Leave it out.", param=name)
    payload: dict[str, Any] = {
        "model": asked.get("model"),
        "prompt": _prompt(asked.get("prompt")),
        "raw": True,
        "stream": stream,
        "truncate": False,
        "options": engine_options(asked),
    }
    if asked.get("keep_alive") is not None:
        payload["keep_alive"] = asked["keep_alive"]
    return payload


def _prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, str):
        raise InvalidRequest("prompt is empty.", param="prompt")
    raise NotSupported("Ollama takes one prompt, as text, per request.", param="prompt")


def completion_whole(answer: Mapping[str, Any], asked: Mapping[str, Any], request_id: str) -> bytes:
    """Return an answer of ``/api/generate`` as OpenAI's.

    Raises:
        UpstreamGarbled: it is not complete.
    """
    text = answer.get("response")
    if answer.get("done") is not True or not isinstance(text, str):
        raise UpstreamGarbled("Ollama sent an answer that cannot be read.")
    choice = _choice(text, finish_reason(answer))
    return _encode({**_head(asked, request_id), "choices": [choice], "usage": usage_of(answer)})


class CompletionFrames:
    """Makes OpenAI's frames of the lines of one stream."""

    def __init__(self, asked: Mapping[str, Any], request_id: str) -> None:
        self.model = asked.get("model") or ""
        self._head = _head(asked, request_id)
        given = asked.get("stream_options")
        self._counts = isinstance(given, Mapping) and given.get("include_usage") is True
        self._usage: Mapping[str, Any] | None = None

    def frame(self, line: Mapping[str, Any]) -> bytes:
        """Return the frame for one line."""
        done = line.get("done") is True
        if done:
            self._usage = usage_of(line)
        text = line.get("response")
        choice = _choice(
            text if isinstance(text, str) else "", finish_reason(line) if done else None
        )
        return _frame({**self._head, "choices": [choice]})

    def last(self) -> bytes:
        """Return what follows the last line: the usage, where it was asked for, and the end marker."""
        counts = {**self._head, "choices": [], "usage": self._usage}
        return (_frame(counts) if self._counts else b"") + b"data: [DONE]\n\n"


def _head(asked: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    return {
        "id": f"cmpl-{request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": asked.get("model"),
    }


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _frame(data: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % _encode(data)


def _encode(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
