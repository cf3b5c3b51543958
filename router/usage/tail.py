"""What an OpenAI-compatible engine counted, read from the tail of what passes through.

An engine says what it counted only where ``stream_options.include_usage`` asks for it. So it is asked
always; where the client did not ask, the one frame that answers is taken out again, and the client gets
what it would have got. Source: OpenAI's API reference, "Streaming": that frame has no choices and comes
last; in other frames ``usage`` is null, or missing (vLLM 0.32).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from router.providers.openai_compatible import encode
from router.providers.openai_stream import frame_begin
from router.providers.sse import data_of

_ASK: Final = b',"stream_options":{"include_usage":true}}'
_NULL: Final = re.compile(rb',\s*"usage":\s*null|"usage":\s*null\s*,')
_COUNTED: Final = re.compile(rb'"usage":\s*\{')
_FRAME_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
#: Bytes that what an engine counted may have; some say much about it.
_USAGE_MAX: Final = 4096
_decoder: Final = json.JSONDecoder()


class Tail:
    """Reads what was counted from a stream that is passed on frame by frame.

    In JSON a quote inside a string is escaped, so ``"usage"`` cannot be text of an answer.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Take the fields the client sent."""
        options = fields.get("stream_options")
        self._options = options if isinstance(options, Mapping) else {}
        self._named = "stream_options" in fields
        #: Whether the client wants to see it.
        self._wanted = bool(self._options.get("include_usage"))
        #: What was counted, in OpenAI's form, once it has passed.
        self.usage: Mapping[str, Any] | None = None

    def ask(self, body: bytes) -> bytes:
        """Return the body for the engine with the question in it: the same bytes where it is there."""
        if self._wanted:
            return body
        end = body.rstrip()
        # Not in UTF-16 and its like, which JSON may be in too.
        if not self._named and end.endswith(b"}") and b"\0" not in end[:4]:
            return end[:-1] + _ASK
        # vLLM's, which puts a count into every frame where counts are asked for.
        rest = {k: v for k, v in self._options.items() if k != "continuous_usage_stats"}
        asked = {**rest, "include_usage": True}
        return encode({**json.loads(body), "stream_options": asked})

    def feed(self, block: bytes) -> bytes:
        """Return what to pass on of one or more whole frames; perhaps nothing."""
        if b'"usage"' not in block:
            return block
        return self._look(block)

    def _look(self, block: bytes) -> bytes:
        if not self._wanted:
            # In two thirds of the time of ``replace``, as long as there are many.
            block = b"".join(block.split(b',"usage":null'))
        first = block.find(b'"usage"')
        if first < 0:
            return block
        # Whatever stands before the first of them passes as it is.
        start = frame_begin(block, first)
        return block[:start] + self._rest(block[start:])

    def _rest(self, block: bytes) -> bytes:
        if not self._wanted:
            block = _NULL.sub(b"", block)
        if _COUNTED.search(block) is None:
            return block
        passed: list[bytes] = []
        start = 0
        for match in _FRAME_END.finditer(block):
            frame = block[start : match.end()]
            start = match.end()
            if not self._counts(frame) or self._wanted:
                passed.append(frame)
        passed.append(block[start:])
        return b"".join(passed)

    def _counts(self, frame: bytes) -> bool:
        """Keep what a frame counts; return whether it does nothing else."""
        if _COUNTED.search(frame) is None:
            return False
        data = data_of(frame)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return False
        if not isinstance(found, dict) or not isinstance(found.get("usage"), dict):
            return False
        self.usage = found["usage"]
        return found.get("choices") == []


def usage_in(answer: bytes) -> Mapping[str, Any] | None:
    """Return what was counted for an answer that was not streamed; None where it does not say."""
    begin = max((match.end() for match in _COUNTED.finditer(answer)), default=0)
    if not begin:
        return None
    text = answer[begin - 1 : begin + _USAGE_MAX].decode(errors="replace")
    try:
        found, _ = _decoder.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
