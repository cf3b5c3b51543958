"""Reading Ollama's streams: pure, fed with bytes cut anywhere.

One JSON object per line. A stream is complete when a line said ``"done": true`` and none carried an
error: a server that is ended closes the connection in the middle of it, and a runner that dies is a line
``{"error": "…"}`` under HTTP 200. Source: Ollama's API reference, 0.24 and 0.32 as recorded.
"""

import json
from collections.abc import Mapping
from typing import Any

from accounts.errors import MhError
from router.errors import EngineStopped, UpstreamGarbled
from router.events import (
    ReasoningEvent,
    TokenEvent,
    TokenLogprob,
    ToolCallEvent,
    ToolCallPiece,
    Usage,
)
from router.providers.base import Delta, Finished
from router.providers.ollama_errors import load_error
from router.providers.openai_stream import broken_off

#: Longest unfinished line kept, in bytes.
LINE_MAX = 16 * 1024 * 1024


def frame_error(error: object, model: str) -> MhError:
    """Return our error for ``{"error": …}`` under HTTP 200."""
    text = error.get("message") if isinstance(error, dict) else error
    known = load_error(str(text or ""), model)
    return known or EngineStopped("Ollama failed while it was answering. Try again.")


class LineReader:
    """Turns bytes into the objects of a stream, up to the one that says ``done``."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._buffer = b""
        #: Whether the end marker has come; what follows it is not read.
        self.complete = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the objects completed by ``data``.

        Raises:
            MhError: the stream carries an error, or is not what it should be.
        """
        if self.complete:
            return []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > LINE_MAX:
            raise _garbled()
        return self._read(lines)

    def end(self) -> list[dict[str, Any]]:
        """Say that no more bytes come; return what that completes: a last line without its end.

        Raises:
            EngineStopped: the stream is not complete.
        """
        lines, self._buffer = [self._buffer], b""
        try:
            found = [] if self.complete else self._read(lines)
        except UpstreamGarbled:  # half of a line
            found = []
        if not self.complete:
            raise broken_off()
        return found

    def _read(self, lines: list[bytes]) -> list[dict[str, Any]]:
        found = []
        for line in lines:
            if self.complete or not line.strip():
                continue
            frame = _object(line)
            if frame.get("error"):
                raise frame_error(frame["error"], self._model)
            self.complete = frame.get("done") is True
            found.append(frame)
        return found


class OllamaReader:
    """Turns the stream of ``/api/chat`` into deltas of a chat."""

    def __init__(self, model: str, request_id: str) -> None:
        """``request_id`` makes up ids of tool calls where Ollama (0.24) gives none."""
        self._lines = LineReader(model)
        self._request_id = request_id
        self._calls = 0

    @property
    def complete(self) -> bool:
        """Whether the end marker has come."""
        return self._lines.complete

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas in ``data``. Raises as ``LineReader.feed``."""
        return [delta for frame in self._lines.feed(data) for delta in self._frame(frame)]

    def end(self) -> list[Delta]:
        """Say that no more bytes come. Raises as ``LineReader.end``."""
        return [delta for frame in self._lines.end() for delta in self._frame(frame)]

    def _frame(self, frame: dict[str, Any]) -> list[Delta]:
        message = frame.get("message")
        deltas = self._message(message, frame) if isinstance(message, dict) else []
        if frame.get("done") is True:
            deltas.append(Finished(self._reason(frame), usage_of(frame)))
        return deltas

    def _message(self, message: dict[str, Any], frame: dict[str, Any]) -> list[Delta]:
        deltas: list[Delta] = []
        thinking = message.get("thinking")
        if isinstance(thinking, str) and thinking:
            deltas.append(ReasoningEvent(type="reasoning", content=thinking))
        content = message.get("content")
        if isinstance(content, str) and content:
            token = TokenEvent(type="token", content=content)
            if found := logprobs_of(frame):
                token["logprobs"] = found
            deltas.append(token)
        calls = message.get("tool_calls")
        deltas += [
            ToolCallEvent(type="tool_call", tool_call=self._call(call))
            for call in (calls if isinstance(calls, list) else ())
            if isinstance(call, dict)
        ]
        return deltas

    def _call(self, call: dict[str, Any]) -> ToolCallPiece:
        """Return a call, which Ollama sends whole; its own ``index`` is missing from older versions."""
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        index, self._calls = self._calls, self._calls + 1
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
        return ToolCallPiece(
            index=index,
            id=str(call.get("id") or f"call_{self._request_id[-12:]}_{index}"),
            name=str(function.get("name") or ""),
            arguments=arguments,
        )

    def _reason(self, frame: Mapping[str, Any]) -> str:
        reason = finish_reason(frame)
        return "tool_calls" if self._calls and reason == "stop" else reason


def finish_reason(frame: Mapping[str, Any]) -> str:
    """Return the ``done_reason`` of a last line by OpenAI's words."""
    reason = frame.get("done_reason")
    return "length" if reason == "length" else "stop"


def usage_of(frame: Mapping[str, Any]) -> Usage:
    """Return the tokens a last line counts. Ollama leaves out what is 0, cached prompts included."""
    prompt, answer = _count(frame.get("prompt_eval_count")), _count(frame.get("eval_count"))
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def logprobs_of(frame: Mapping[str, Any]) -> list[TokenLogprob]:
    """Return the log probabilities of a line, which are as OpenAI's."""
    found = frame.get("logprobs")
    entries = found if isinstance(found, list) else []
    return [_logprob(entry) for entry in entries if isinstance(entry, dict)]


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    value = entry.get("logprob")
    likely = float(value) if isinstance(value, int | float) else 0.0
    logprob = TokenLogprob(token=str(entry.get("token") or ""), logprob=likely)
    if isinstance(entry.get("bytes"), list):
        logprob["bytes"] = entry["bytes"]
    top = entry.get("top_logprobs")
    if isinstance(top, list):
        logprob["top_logprobs"] = [_logprob(other) for other in top if isinstance(other, dict)]
    return logprob


def _object(line: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _garbled() from exc
    if not isinstance(frame, dict):
        raise _garbled()
    return frame


def _garbled() -> UpstreamGarbled:
    return UpstreamGarbled("Ollama sent an answer that cannot be read.")
