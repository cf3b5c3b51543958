"""Reading OpenAI's streams: pure, fed with bytes cut anywhere.

A stream is complete when ``[DONE]`` came after a finish reason and no frame carried an error. vLLM
sends ``[DONE]`` after an error too, under HTTP 200, and a crashed engine just ends the body.
Source: OpenAI's API reference, "Streaming", and vLLM 0.32 as observed.
"""

import json
import re
from typing import Any, Final, cast

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
from router.providers.base import Delta, Finished, Waits
from router.providers.openai_errors import stream_error
from router.providers.sse import (
    EVENT_MAX,
    EventTooLong,
    SseDecoder,
    data_of,
    events_of,
    frames_in,
)

DONE = "[DONE]"
#: Bytes up to which frames are looked at for whether they say anything.
_HEAD_MAX = 8192
_CONTENT = '"delta":{"content":"'
#: Bytes that the frame of one token never has: no need to look through all of it.
_TOKEN_MAX: Final = 4096
_FINISHED = re.compile(rb'"finish_reason":\s*"')
_FRAME_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def broken_off() -> EngineStopped:
    """Return the error for a stream that ended without its end marker."""
    return EngineStopped("The engine stopped before the answer was complete. Try again.")


def says_nothing(frames: bytes) -> bool:
    """Say whether whole frames hold nothing of an answer: who speaks, or comments that keep a connection alive."""
    if len(frames) > _HEAD_MAX or not (b'"role"' in frames or frames.startswith(b":")):
        return False
    return not any(_says_something(data_of(frame)) for frame in frames_in(frames))


def _says_something(data: str) -> bool:
    if not data:
        return False
    try:
        choices = json.loads(data)["choices"]
        return any(
            choice.get("finish_reason")
            or any(value for name, value in choice["delta"].items() if name != "role")
            for choice in choices
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return True


class ChatReader:
    """Turns a chat completion stream into deltas of a chat."""

    def __init__(self) -> None:
        self._sse = SseDecoder()
        self._reason = ""
        self._usage: Usage | None = None
        #: What stands around the text in a frame that is nothing but a piece of the answer.
        self._around: tuple[str, str] | None = None
        #: Whether the end marker has come; what follows it is not read.
        self.complete = False

    def feed(self, data: bytes) -> list[Delta]:
        """Return the deltas in ``data``.

        Raises:
            MhError: the stream carries an error, or is not what it should be.
        """
        deltas: list[Delta] = []
        try:
            events = self._sse.feed(data)
        except EventTooLong as exc:
            raise UpstreamGarbled("The engine sent an answer that cannot be read.") from exc
        for event in events:
            if self.complete:
                break
            deltas += self._event(event.data)
        return deltas

    def end(self) -> list[Delta]:
        """Say that no more bytes come; return what that completes.

        Raises:
            EngineStopped: the stream is not complete.
        """
        deltas = [delta for event in self._sse.end() for delta in self._event(event.data)]
        if not self.complete:
            raise broken_off()
        return deltas

    def _event(self, data: str) -> list[Delta]:
        around = self._around
        if around is not None and data.startswith(around[0]) and data.endswith(around[1]):
            text = data[len(around[0]) : -len(around[1])]
            # A JSON string without these is what it says: the frame differs from one that was parsed in nothing else.
            if text and '"' not in text and "\\" not in text and text.isprintable():
                return [{"type": "token", "content": text}]
        return self._parsed(data)

    def _parsed(self, data: str) -> list[Delta]:
        if data.strip() == DONE:
            if not self._reason:
                raise broken_off()
            self.complete = True
            return [Finished(self._reason, self._usage)]
        frame = _object(data)
        if frame is None:
            return []
        if frame.get("error"):
            raise stream_error(frame["error"])
        if usage := usage_of(frame):
            self._usage = usage
        choices = frame.get("choices")
        deltas: list[Delta] = []
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                deltas += self._choice(choice)
        if not usage and not self._reason and len(choices or ()) == len(deltas) == 1:
            self._around = _around(data, deltas[0])
        return deltas

    def _choice(self, choice: dict[str, Any]) -> list[Delta]:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._reason = reason
        delta = choice.get("delta")
        deltas = deltas_of(delta) if isinstance(delta, dict) else []
        if logprobs := logprobs_of(choice.get("logprobs")):
            for found in deltas:
                if not isinstance(found, (Finished, Waits)) and found["type"] == "token":
                    found["logprobs"] = logprobs
        return deltas


def logprobs_of(logprobs: object) -> list[TokenLogprob]:
    """Return the log probabilities of a choice, if it has them."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = content if isinstance(content, list) else []
    return [cast("TokenLogprob", entry) for entry in entries if isinstance(entry, dict)]


def _around(data: str, delta: Delta) -> tuple[str, str] | None:
    """Return what stands in ``data`` before and after the text, where ``delta`` is its text and all it says.

    No string in JSON holds ``"delta":{"content":"``: its quotes would be escaped.
    """
    if not isinstance(delta, dict) or delta["type"] != "token":
        return None
    head, found, rest = data.partition(_CONTENT)
    text, quote, tail = rest.partition('"')
    if not found or not quote or text != delta["content"]:
        return None
    return head + found, quote + tail


def deltas_of(message: dict[str, Any]) -> list[Delta]:
    """Return what a ``delta`` (or a whole ``message``) says: reasoning, then content, then tool calls."""
    deltas: list[Delta] = []
    # Old engines say ``reasoning_content``; some say both, with the same text.
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(reasoning, str):
        deltas.append(ReasoningEvent(type="reasoning", content=reasoning))
    content = message.get("content")
    if isinstance(content, str) and content:
        deltas.append(TokenEvent(type="token", content=content))
    for position, call in enumerate(message.get("tool_calls") or ()):
        if isinstance(call, dict):
            piece = _tool_call(call, position)
            deltas.append(ToolCallEvent(type="tool_call", tool_call=piece))
    return deltas


def _tool_call(call: dict[str, Any], position: int) -> ToolCallPiece:
    function = call.get("function") or {}
    piece = ToolCallPiece(
        index=int(call.get("index", position)), arguments=function.get("arguments") or ""
    )
    if call.get("id"):
        piece["id"] = str(call["id"])
    if function.get("name"):
        piece["name"] = str(function["name"])
    return piece


def usage_of(frame: dict[str, Any]) -> Usage | None:
    """Return the usage a frame or answer carries, if it does."""
    usage = frame.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt = int(usage.get("prompt_tokens") or 0)
    completion = int(usage.get("completion_tokens") or 0)
    total = int(usage.get("total_tokens") or prompt + completion)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _object(data: str) -> dict[str, Any] | None:
    """Return the JSON object in ``data``; None where there is nothing (some providers keep alive so)."""
    if not data.strip():
        return None
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UpstreamGarbled("The engine sent an answer that cannot be read.") from exc
    if not isinstance(frame, dict):
        raise UpstreamGarbled("The engine sent an answer that cannot be read.")
    return frame


class Relay:
    """Passes a stream's bytes on, whole frames at a time, and watches for its end.

    Frames are not parsed: the few bytes that matter are looked for. In JSON a quote inside a string
    is escaped, so ``"error"`` and ``"finish_reason":"`` cannot be text of an answer.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._finished = False
        self.complete = False
        #: Why the stream is over without being complete, once that is known.
        self.error: MhError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is passed on."""
        return self.complete or self.error is not None

    def is_plain(self, data: bytes) -> bool:
        """Whether ``data`` is one whole token of a stream, and nothing has to be known of it: most are.

        ``feed`` would return it as it is; neither a reason, nor an error, nor a count is in it.
        """
        return (
            len(data) < _TOKEN_MAX
            and not self._buffer
            and data.endswith(b"\n\n")
            and b'"finish_reason":null' in data
            and data.count(b"finish_reason") == 1
            and b'"usage"' not in data
            and b'"error"' not in data
            and b"[DONE]" not in data
        )

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on now. After an error, or the end marker, nothing more."""
        if self.complete or self.error:
            return b""
        buffer = self._buffer + data if self._buffer else data
        if buffer.endswith(b"\n\n"):
            self._buffer = b""
            return self._block(buffer)
        end = _last_frame_end(buffer)
        self._buffer = buffer[end:]
        if len(self._buffer) > EVENT_MAX:
            self.error = UpstreamGarbled("The engine sent an answer that cannot be read.")
            return b""
        return self._block(buffer[:end]) if end else b""

    def end(self) -> bytes:
        """Say that no more bytes come; return what is left to pass on. ``error`` is set if it is not all."""
        if self.complete or self.error:
            return b""
        rest, self._buffer = self._buffer.rstrip(b"\r\n"), b""
        # Only an end marker may lack its blank line; half a frame is never passed on.
        passed = self._block(rest + b"\n\n") if rest.endswith(b"[DONE]") else b""
        if not self.complete and self.error is None:
            self.error = broken_off()
        return passed

    def _block(self, block: bytes) -> bytes:
        # As ``_is_looked_at``: this is done for each token.
        error, done = block.find(b'"error"'), block.find(b"[DONE]")
        if error >= 0 or done >= 0:
            return self._frames(block, min(at for at in (error, done) if at >= 0))
        if not self._finished and _FINISHED.search(block):
            self._finished = True
        return block

    def _frames(self, block: bytes, first: int) -> bytes:
        """Look at each frame of a block from ``first`` on, where an error or the end may be."""
        # Whatever stands before passes as it is.
        start = frame_begin(block, first)
        passed = [block[:start]]
        # The reason stands next to the end, as a rule, and most engines put no space before it.
        if not self._finished and (
            block.rfind(b'"finish_reason":"', 0, start) >= 0 or _FINISHED.search(block, 0, start)
        ):
            self._finished = True
        for match in _FRAME_END.finditer(block, start):
            frame = block[start : match.end()]
            start = match.end()
            # Only such frames, wherever the cuts are: what is passed on must not depend on them.
            if _is_looked_at(frame) and self._ends(frame):
                if self.complete:
                    passed.append(frame)
                break
            if _FINISHED.search(frame):
                self._finished = True
            passed.append(frame)
        return b"".join(passed)

    def _ends(self, frame: bytes) -> bool:
        for event in events_of(frame):
            if event.data.strip() == DONE:
                self.complete = self._finished
                self.error = None if self._finished else broken_off()
                return True
            try:
                found = _object(event.data)
            except UpstreamGarbled as exc:
                self.error = exc
                return True
            if found and found.get("error"):
                self.error = stream_error(found["error"])
                return True
        return False


def _is_looked_at(block: bytes) -> bool:
    """Say whether ``block`` may hold an error or the end."""
    return b'"error"' in block or b"[DONE]" in block


def frame_begin(block: bytes, at: int) -> int:
    """Return where the frame begins, or one of those before it, that has a byte of what is at ``at``."""
    return _last_frame_end(block[:at])


def _last_frame_end(buffer: bytes) -> int:
    """Return where the last complete frame ends; 0 if none does."""
    end = buffer.rfind(b"\n\n")
    if end >= 0:
        return end + 2
    if b"\r" not in buffer:
        return 0
    matches = list(_FRAME_END.finditer(buffer))
    return matches[-1].end() if matches else 0
