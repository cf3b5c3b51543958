"""What was counted, read from the tail of a stream, and taken out where nobody asked."""

import json
from typing import Any

import pytest

from router.usage.tail import Tail, usage_in

COUNT = b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"a \\"usage\\":{ b"}}]}\n\n'
NULLED = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":null}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COUNTED = b'data: {"id":"1","choices":[],"usage":' + COUNT + b"}\n\n"
DONE = b"data: [DONE]\n\n"
WANTED = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "messages": []},
        {"model": "m", "stream_options": None},
        {"model": "m", "stream_options": {"include_usage": False, "other": 1}},
    ],
)
def test_the_engine_is_asked_also_where_the_client_did_not(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode() + b" \n"
    asked = json.loads(Tail(body).ask(raw))
    assert asked.pop("stream_options")["include_usage"] is True
    assert asked == {key: value for key, value in body.items() if key != "stream_options"}


def test_counts_of_every_frame_are_not_asked_for_where_none_is_wanted() -> None:
    fields = {"stream_options": {"continuous_usage_stats": True}}
    asked = json.loads(Tail(fields).ask(json.dumps(fields).encode()))
    assert asked == {"stream_options": {"include_usage": True}}


def test_a_client_that_asked_has_its_own_bytes_both_ways() -> None:
    tail = Tail(WANTED)
    assert tail.ask(b'{"x": 1}') == b'{"x": 1}'
    for block in (PIECE, NULLED, LAST + COUNTED, DONE):
        assert tail.feed(block) == block
    assert tail.usage == json.loads(COUNT)


def test_a_body_in_another_encoding_is_asked_too() -> None:
    raw = '{"model": "ä"}'.encode("utf-16")
    asked = json.loads(Tail({"model": "ä"}).ask(raw))
    assert asked == {"model": "ä", "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    "blocks",
    [(PIECE, LAST, COUNTED, DONE), (PIECE + LAST + COUNTED + DONE,), (PIECE, LAST, COUNTED + DONE)],
)
def test_a_client_that_did_not_ask_gets_what_it_would_have_got(blocks: tuple[bytes, ...]) -> None:
    tail = Tail({})
    assert b"".join(tail.feed(block) for block in blocks) == PIECE + LAST + DONE
    assert tail.usage == json.loads(COUNT)


def test_an_unasked_null_is_taken_out_of_every_frame() -> None:
    assert Tail({}).feed(NULLED) == NULLED.replace(b',"usage":null', b"")


def test_a_count_in_a_frame_with_an_answer_is_read_and_left_there() -> None:
    frame = b'data: {"choices":[{"index":0,"finish_reason":"stop"}],"usage":' + COUNT + b"}\n\n"
    tail = Tail({})
    assert tail.feed(frame) == frame
    assert tail.usage == json.loads(COUNT)


def test_text_that_looks_like_a_count_is_none() -> None:
    tail = Tail({})
    assert tail.feed(PIECE) is PIECE
    assert tail.usage is None


def test_an_answer_that_is_not_streamed_is_read_from_its_end() -> None:
    assert usage_in(b'{"choices":[{"message":{"content":"x"}}],"usage": ' + COUNT + b"}") == (
        json.loads(COUNT)
    )
    assert usage_in(b'{"choices":[]}') is None
    assert usage_in(b'{"usage":{"broken') is None
