"""Server-sent events, read incrementally from bytes cut anywhere.

Source: the WHATWG HTML standard, "9.2.6 Interpreting an event stream". Event ids and retry times are
read over: no engine we talk to uses them.
"""

import re
from codecs import BOM_UTF8 as BOM
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Longest unfinished event kept, in bytes; an engine that sends more without a blank line is broken.
EVENT_MAX = 16 * 1024 * 1024
_FRAME_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class EventTooLong(ValueError):
    """More than ``EVENT_MAX`` bytes came without the end of an event."""


class SseEvent(NamedTuple):
    """One event: its name (empty for the default) and its data, lines joined by newlines."""

    name: str
    data: str


class SseDecoder:
    """Feed it bytes; it returns the events they complete. The same events, wherever the cuts are."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._data: list[str] = []
        self._name = ""
        self._size = 0

    def feed(self, data: bytes) -> list[SseEvent]:
        """Return the events completed by ``data``.

        Raises:
            EventTooLong: an event has grown beyond ``EVENT_MAX``.
        """
        if self._is_fresh() and (whole := _whole_events(data)):
            return whole
        buffer = self._buffer + data
        if not self._started:
            if len(buffer) < len(BOM) and BOM.startswith(buffer):
                self._buffer = buffer
                return []
            buffer = buffer.removeprefix(BOM)
            self._started = True
        # A final CR may be half of a CRLF: it waits for the next byte.
        end = max(buffer.rfind(b"\n"), buffer.rfind(b"\r", 0, len(buffer) - 1)) + 1
        self._buffer = buffer[end:]
        self._size += len(data)
        events = [event for line in _lines(buffer[:end]) if (event := self._line(line))]
        if not self._data and not self._name:
            self._size = len(self._buffer)
        if self._size > EVENT_MAX:
            msg = f"an event of more than {EVENT_MAX} bytes"
            raise EventTooLong(msg)
        return events

    def _is_fresh(self) -> bool:
        """Return whether nothing that came before has to do with what comes next."""
        return self._started and not self._buffer and not self._data and not self._name

    def end(self) -> list[SseEvent]:
        """Return the event that a final CR, held back as half of a CRLF, completes. No more bytes come.

        An event without its blank line is dropped, as the standard says.
        """
        rest, self._buffer = self._buffer, b""
        if not rest.endswith(b"\r"):
            return []
        event = self._line(rest[:-1])
        return [event] if event else []

    def _line(self, raw: bytes) -> SseEvent | None:
        if not raw:
            return self._dispatch()
        if raw.startswith(b":"):
            return None
        field, _, value = raw.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None

    def _dispatch(self) -> SseEvent | None:
        data, self._data = self._data, []
        name, self._name = self._name, ""
        return SseEvent(name, "\n".join(data)) if data else None


def events_of(frames: bytes) -> list[SseEvent]:
    """Return the events of whole frames."""
    if found := _whole_events(frames):
        return found
    decoder = SseDecoder()
    return [*decoder.feed(frames), *decoder.end()]


def _whole_events(data: bytes) -> list[SseEvent]:
    """Return the events of ``data`` where it is nothing but events of one line of data each; else nothing.

    So do engines send their tokens, one to a write; it saves most of what reading lines costs.
    """
    if not data.endswith(b"\n\n") or b"\r" in data or len(data) > EVENT_MAX:
        return []
    events: list[SseEvent] = []
    for block in data[:-2].split(b"\n\n"):
        if not block.startswith(b"data: ") or b"\n" in block:
            return []
        events.append(SseEvent("", block[6:].decode(errors="replace")))
    return events


def _lines(block: bytes) -> list[bytes]:
    """Split at CRLF, CR and LF, the only line ends of this format. ``block`` ends with one of them."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return block.split(b"\n")[:-1]


def frames_in(block: bytes) -> Iterator[bytes]:
    """Yield the frames of ``block``, each with its blank line; what follows the last one is left out."""
    start = 0
    for match in _FRAME_END.finditer(block):
        yield block[start : match.end()]
        start = match.end()


def data_of(frame: bytes) -> str:
    """Return the data of one whole frame; empty where it has none."""
    return "".join(event.data for event in events_of(frame))
