"""What a job's worker puts out, turned into a chat: pure, fed element by element.

vLLM workers come in two generations. Up to 2.23 an element is a batch ``{choices: [{tokens: […]}], usage: {input,
output}}`` and the job's own end is the end marker. From 2.24 on elements are strings: pieces of an OpenAI stream as
``vllm serve`` sends it, cut anywhere, which ends with ``[DONE]``; unstreamed, one OpenAI answer. Public endpoints
give the bare element. Source: runpod-workers/worker-vllm.
"""

from collections.abc import Mapping
from typing import Any

from accounts.errors import MhError
from router.errors import UpstreamGarbled
from router.events import TokenEvent, Usage
from router.providers.base import Delta, Finished
from router.providers.openai_stream import ChatReader, deltas_of, usage_of
from router.providers.runpod.errors import job_error


class OutputReader:
    """Reads one job's output. Elements are given once and in their order."""

    def __init__(self, max_tokens: int = 0) -> None:
        """Begin. ``max_tokens`` is what was asked for, 0 if nothing: old workers do not say why they ended."""
        self._max_tokens = max_tokens
        self._chat: ChatReader | None = None
        self._reason = ""
        self._usage: Usage | None = None
        self._seen = False
        #: Whether ``Finished`` has been returned.
        self.complete = False

    def feed(self, element: object) -> list[Delta]:
        """Return the deltas in ``element``: a string (or bytes) of a stream, an answer, a batch, or a list of those.

        Raises:
            MhError: it carries an error, or is none of them.
        """
        if self.complete or element is None or element in ("", b""):
            return []
        if isinstance(element, list):
            return [delta for item in element for delta in self.feed(item)]
        if isinstance(element, str | bytes):
            return self._piece(element)
        if isinstance(element, dict):
            return self._object(element)
        raise _garbled()

    def end(self) -> list[Delta]:
        """Say that the job is COMPLETED and nothing is left; return what that completes.

        Raises:
            MhError: the answer is not complete.
        """
        if self.complete:
            return []
        if self._chat is not None:
            deltas = self._chat.end()
            self.complete = self._chat.complete
            return deltas
        if not self._seen:
            raise _garbled()
        self.complete = True
        return [Finished(self._reason or self._guessed(), self._usage)]

    def _piece(self, piece: str | bytes) -> list[Delta]:
        if self._chat is None:
            self._chat = ChatReader()
        deltas = self._chat.feed(piece if isinstance(piece, bytes) else _bytes(piece))
        self.complete = self._chat.complete
        return deltas

    def _object(self, element: dict[str, Any]) -> list[Delta]:
        if error := _error_in(element):
            raise error
        choices = element.get("choices")
        if not isinstance(choices, list):
            raise _garbled()
        self._seen = True
        self._usage = _usage(element) or self._usage
        first = next((choice for choice in choices if isinstance(choice, dict)), {})
        if isinstance(first.get("finish_reason"), str):
            self._reason = first["finish_reason"]
        return _choice(first)

    def _guessed(self) -> str:
        made = self._usage["completion_tokens"] if self._usage else 0
        return "length" if 0 < self._max_tokens <= made else "stop"


def _choice(choice: Mapping[str, Any]) -> list[Delta]:
    tokens = choice.get("tokens")
    if isinstance(tokens, list):
        return _text("".join(token for token in tokens if isinstance(token, str)))
    if isinstance(choice.get("text"), str):
        return _text(choice["text"])
    message = choice.get("message") or choice.get("delta")
    return deltas_of(message) if isinstance(message, dict) else []


def _text(text: str) -> list[Delta]:
    return [TokenEvent(type="token", content=text)] if text else []


def _usage(element: dict[str, Any]) -> Usage | None:
    usage = element.get("usage")
    if not isinstance(usage, dict) or not {"input", "output"} & usage.keys():
        return usage_of(element)
    prompt, made = int(usage.get("input") or 0), int(usage.get("output") or 0)
    return Usage(prompt_tokens=prompt, completion_tokens=made, total_tokens=prompt + made)


def _error_in(element: dict[str, Any]) -> MhError | None:
    if element.get("error"):
        return job_error(element["error"])
    return job_error(element) if element.get("object") == "error" else None


def _bytes(piece: str) -> bytes:
    # A character cut in two travels as lone surrogates where the worker decoded with ``surrogateescape``.
    try:
        return piece.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return piece.encode(errors="surrogatepass")


def _garbled() -> UpstreamGarbled:
    return UpstreamGarbled(
        "The RunPod worker sent an answer that cannot be read. Is it one that runs vLLM?"
    )
