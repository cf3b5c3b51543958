"""Every adapter's reader gets its stream cut at arbitrary places, and says the same.

A reader is a row of ``READERS``: how to make one (it has ``feed`` and ``end``), and streams it reads, recorded
and made up.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.errors import MhError
from router.providers.base import Finished
from router.providers.huggingface.tgi import TgiReader
from router.providers.ollama_stream import LineReader, OllamaReader
from router.providers.openai_stream import ChatReader, Relay
from router.providers.runpod.output import OutputReader
from tests.fakes import fake_ollama

RECORDINGS = Path(fake_ollama.__file__).parent / "recordings"
TEXT = 'wörd 🙂 "quoted"\n\r\n data: [DONE] {"done":true}'


class Reader(Protocol):
    """What adapters read streams with."""

    def feed(self, data: bytes, /) -> Any: ...

    def end(self) -> Any: ...


@dataclass(frozen=True)
class Row:
    """A reader, and whole or broken streams for it."""

    name: str
    make: Callable[[], Reader]
    streams: Sequence[bytes]


def compact(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def events(*frames: object, end: bytes = b"\n\n") -> bytes:
    """Server-sent events; strings are sent as they are."""
    datas = [frame.encode() if isinstance(frame, str) else compact(frame) for frame in frames]
    return b"".join(b"data: " + data + end for data in datas)


def lines(*objects: object) -> bytes:
    return b"".join(compact(item) + b"\n" for item in objects)


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def recorded(version: str, name: str, start: str) -> bytes:
    """The lines of one recorded exchange that begin with ``start``, blank ones between them included."""
    text = (RECORDINGS / "ollama" / f"ollama-{version}.txt").read_text()
    found = re.search(rf"^--- {name}\nHTTP .*\n((?:(?:{start}.*)?\n)+)", text, re.M)
    assert found, name
    return found[1].encode()


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"ä":'}}
REST = {"index": 0, "function": {"arguments": '"ö"}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
OPENAI = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning": TEXT}),
    chunk({"content": TEXT}),
    chunk({"content": "x"}, logprobs={"content": [{"token": "x", "logprob": -1.0}]}),
    chunk({"tool_calls": [CALL]}),
    chunk({"tool_calls": [REST]}),
    chunk({}, "tool_calls"),
    {"choices": [], "usage": USAGE},
)
OPENAI_STREAMS = (
    events(*OPENAI, "[DONE]"),
    events(*OPENAI, "[DONE]", end=b"\r\n\r\n"),
    b"\xef\xbb\xbf: keep-alive\n\n" + events(*OPENAI, "[DONE]") + b": late\n\n",
    events(*OPENAI),
    events(*OPENAI[:3], "[DONE]"),
    events(*OPENAI[:3], {"error": {"message": "died", "code": 500}}, "[DONE]"),
    events(*OPENAI[:3]) + b'data: {"half',
    events(*OPENAI[:3], "not json", "[DONE]"),
    recorded("0.32.15", "v1 chat stream", "data: "),
    recorded("0.24.0", "v1 chat stream", "data: "),
    b"",
)

HEAD = {"model": "m", "created_at": "2026-11-22T11:10:34Z", "done": False}
CALLED = {"id": "call_1", "function": {"index": 0, "name": "f", "arguments": {"ä": "ö"}}}
OLLAMA = (
    {**HEAD, "message": {"role": "assistant", "content": "", "thinking": TEXT}},
    {**HEAD, "message": {"role": "assistant", "content": TEXT}},
    {**HEAD, "message": {"content": "x"}, "logprobs": [{"token": "x", "logprob": -1.0}]},
    {**HEAD, "message": {"role": "assistant", "content": "", "tool_calls": [CALLED, CALLED]}},
    {**HEAD, "message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 4},
)
OLLAMA_STREAMS = (
    lines(*OLLAMA),
    lines(*OLLAMA).replace(b"\n", b"\r\n"),
    lines(*OLLAMA).rstrip(),
    lines(*OLLAMA, OLLAMA[1]),
    lines(*OLLAMA[:3]),
    lines(*OLLAMA[:3], {"error": "an error was encountered while running the model"}, OLLAMA[-1]),
    lines(*OLLAMA)[:-9],
    lines(*OLLAMA[:2], "text", OLLAMA[-1]),
    recorded("0.32.15", "chat num_predict length", r"\{"),
    recorded("0.24.0", "chat num_predict length", r"\{"),
    recorded("0.32.15", "pull offline", r"\{"),
    b"",
)


def tgi(text: str, **last: Any) -> dict[str, Any]:
    """A frame of text-generation-inference; the last one has the whole text."""
    token = {"id": 1, "text": text, "logprob": -0.5, "special": False}
    return {"index": 1, "token": token, "generated_text": None, "details": None, **last}


TGI = (tgi(TEXT), tgi("x"), tgi(".", generated_text=f"{TEXT}x.", details={
    "finish_reason": "eos_token", "generated_tokens": 3, "input_length": 4}))  # fmt: skip
TGI_STREAMS = (
    events(*TGI),
    events(*TGI, end=b"\r\n\r\n").replace(b"data: ", b"data:"),
    b": keep-alive\n\n" + events(*TGI) + b": late\n\n",
    events(*TGI[:2]),
    events(*TGI[:2], {"error": "Request failed during generation", "error_type": "generation"}),
    events({"error": "Model is overloaded", "error_type": "overloaded"}),
    events(*TGI[:2]) + b'data:{"half',
    events(TGI[0], "not json", TGI[2]),
    b"",
)

#: One row for each reader of an adapter.
READERS: tuple[Row, ...] = (
    Row("openai chat", ChatReader, OPENAI_STREAMS),
    Row("openai relay", Relay, OPENAI_STREAMS),
    Row("ollama chat", lambda: OllamaReader("m", "request"), OLLAMA_STREAMS),
    Row("ollama lines", lambda: LineReader("m"), OLLAMA_STREAMS),
    # What newer workers stream is raw server-sent events, cut anywhere.
    Row("runpod output", OutputReader, OPENAI_STREAMS),
    Row("tgi", TgiReader, TGI_STREAMS),
)


def outcome(reader: Reader, pieces: Sequence[bytes]) -> tuple[object, str]:
    """What it says, and how it ends."""
    said: list[Any] = []
    error: BaseException | None = None
    try:
        for piece in (*pieces, None):
            found = reader.end() if piece is None else reader.feed(piece)
            said += [found] if isinstance(found, bytes) else found
    except MhError as exc:
        # A piece that fails says nothing of what it held before: only whole answers are compared.
        error, said = exc, [item for item in said if isinstance(item, Finished)]
    error = error or getattr(reader, "error", None)
    if all(isinstance(item, bytes) for item in said):
        said = [b"".join(said)]
    return said, type(error).__name__ if error else "complete"


@st.composite
def cut(draw: st.DrawFn) -> tuple[Row, bytes, list[bytes]]:
    row = draw(st.sampled_from(READERS))
    stream = draw(st.sampled_from(row.streams))
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return row, stream, [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]  # fmt: skip


@pytest.mark.fault(25)
@settings(deadline=None, max_examples=400)
@given(cut())
def test_a_stream_says_the_same_wherever_it_is_cut(case: tuple[Row, bytes, list[bytes]]) -> None:
    row, stream, pieces = case
    assert outcome(row.make(), pieces) == outcome(row.make(), [stream])


@pytest.mark.fault(25)
@pytest.mark.parametrize("row", READERS, ids=lambda row: row.name)
def test_a_stream_byte_by_byte_says_the_same(row: Row) -> None:
    for stream in row.streams:
        single = [stream[place : place + 1] for place in range(len(stream))]
        assert outcome(row.make(), single) == outcome(row.make(), [stream])


@pytest.mark.fault(26)
@pytest.mark.parametrize("row", READERS, ids=lambda row: row.name)
def test_the_first_stream_is_whole_and_an_empty_one_is_not(row: Row) -> None:
    assert outcome(row.make(), [row.streams[0]])[1] == "complete"
    assert outcome(row.make(), [])[1] != "complete"
