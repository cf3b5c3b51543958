import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.errors import MhError
from router.errors import EngineStopped, UpstreamGarbled
from router.providers import openai_stream
from router.providers.base import Delta, Finished
from router.providers.openai_stream import ChatReader, Relay, says_nothing

DONE = b"data: [DONE]\n\n"
ERROR = {
    "error": {"message": "EngineCore at /usr/lib died", "type": "InternalServerError", "code": 500}
}


def frame(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    return raw({"id": "x", "choices": choices, **more})


def raw(data: object) -> bytes:
    return (
        b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )


def read(data: bytes, pieces: int = 1) -> list[Delta]:
    reader = ChatReader()
    size = max(1, len(data) // pieces)
    found = [
        delta
        for start in range(0, len(data), size)
        for delta in reader.feed(data[start : start + size])
    ]
    return found + reader.end()


def relayed(*pieces: bytes) -> tuple[bytes, Relay]:
    relay = Relay()
    passed = b"".join([relay.feed(piece) for piece in pieces] + [relay.end()])
    return passed, relay


deltas = st.one_of(
    st.text(max_size=8).map(lambda text: {"content": text}),
    st.text(max_size=8).map(lambda text: {"reasoning": text}),
    st.just({"role": "assistant", "content": ""}),
    st.just({"content": 'say "error": [DONE] and "finish_reason":"stop" \n\n'}),
)
ends = st.sampled_from(
    [b"", DONE, frame({}, "stop"), frame({}, "stop") + DONE, raw(ERROR) + DONE, b"data: {"]
)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    body = b"".join(frame(delta) for delta in draw(st.lists(deltas, max_size=6))) + draw(ends)
    if draw(st.booleans()):
        body = body.replace(b"\n\n", b"\r\n\r\n")
    places = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return body, [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def outcome(pieces: list[bytes]) -> tuple[list[Delta], str]:
    reader = ChatReader()
    found: list[Delta] = []
    try:
        for piece in pieces:
            found += reader.feed(piece)
        found += reader.end()
    except MhError as exc:
        return joined(found), type(exc).__name__
    return joined(found), "complete"


def joined(found: list[Delta]) -> list[Delta]:
    """A feed that raises loses what the same bytes held before the error: compare what is sure."""
    return [delta for delta in found if isinstance(delta, Finished)]


@settings(deadline=None)
@given(cut_streams())
def test_a_chat_reads_the_same_wherever_the_bytes_are_cut(case: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = case
    assert outcome(pieces) == outcome([whole])


@settings(deadline=None)
@given(cut_streams())
def test_a_relay_passes_the_same_bytes_wherever_they_are_cut(
    case: tuple[bytes, list[bytes]],
) -> None:
    whole, pieces = case
    passed, relay = relayed(*pieces)
    at_once, at_once_relay = relayed(whole)
    assert passed == at_once
    assert relay.complete == at_once_relay.complete
    assert type(relay.error) is type(at_once_relay.error)
    assert whole.startswith(passed)
    # What was passed on without an error is a whole answer, and the other way round.
    assert relay.complete == (relay.error is None) == passed.rstrip().endswith(b"[DONE]")


def test_tokens_reasoning_and_usage_come_apart_and_in_order() -> None:
    body = (
        frame({"role": "assistant", "content": ""})
        + frame({"reasoning": "hm"})
        + frame({"reasoning_content": "hm hm"})
        + frame({"content": "Paris"})
        + frame({"content": ""}, "stop")
        + raw({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
        + DONE
    )
    assert read(body, pieces=7) == [
        {"type": "reasoning", "content": "hm"},
        {"type": "reasoning", "content": "hm hm"},
        {"type": "token", "content": "Paris"},
        Finished("stop", {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}),
    ]


def test_a_tool_call_comes_in_pieces() -> None:
    first = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    then = {"index": 0, "function": {"arguments": "{}"}}
    body = (
        frame({"tool_calls": [first]})
        + frame({"tool_calls": [then]})
        + frame({}, "tool_calls")
        + DONE
    )
    assert read(body)[:2] == [
        {"type": "tool_call", "tool_call": {"index": 0, "arguments": "", "id": "c1", "name": "f"}},
        {"type": "tool_call", "tool_call": {"index": 0, "arguments": "{}"}},
    ]


def test_only_the_end_marker_after_a_finish_reason_is_complete() -> None:
    token, finish = frame({"content": "a"}), frame({}, "stop")
    for body in (b"", token, token + finish, token + DONE, finish + b"data: [DON"):
        with pytest.raises(EngineStopped):
            read(body)
        _, relay = relayed(body)
        assert isinstance(relay.error, EngineStopped)


def test_an_error_frame_is_an_error_although_the_end_marker_follows() -> None:
    body = frame({"content": "a"}) + raw(ERROR) + DONE
    with pytest.raises(EngineStopped) as caught:
        read(body)
    assert "/usr" not in caught.value.message
    passed, relay = relayed(body)
    assert passed == frame({"content": "a"})
    assert isinstance(relay.error, EngineStopped)


def test_half_a_frame_is_never_passed_on() -> None:
    passed, relay = relayed(frame({"content": "a"}) + b'data: {"choices":[{"de')
    assert passed == frame({"content": "a"})
    assert isinstance(relay.error, EngineStopped)


def test_an_end_marker_without_its_blank_line_is_one() -> None:
    passed, relay = relayed(frame({}, "stop") + b"data: [DONE]")
    assert relay.complete
    assert passed.endswith(DONE)


def test_what_follows_the_end_marker_is_not_read() -> None:
    body = frame({}, "stop") + DONE + raw(ERROR)
    assert read(body) == [Finished("stop", None)]
    passed, relay = relayed(body)
    assert relay.complete
    assert passed == frame({}, "stop") + DONE


def test_comments_and_empty_data_keep_a_stream_alive_and_nothing_else() -> None:
    body = b": keep-alive\n\ndata:\n\n" + frame({}, "stop") + DONE
    assert read(body) == [Finished("stop", None)]


@pytest.mark.parametrize("data", [b"data: <html>\n\n", b"data: [1]\n\n", b'data: "x"\n\n'])
def test_what_is_no_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(UpstreamGarbled):
        read(data)


def test_a_frame_without_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_stream, "EVENT_MAX", 1000)
    _, relay = relayed(*[b"x" * 300] * 5)
    assert isinstance(relay.error, UpstreamGarbled)


def test_a_piece_read_by_what_stands_around_it_says_what_it_would_parsed() -> None:
    around = '{"id":"c","choices":[{"index":0,"delta":{"content":%s},"finish_reason":%s}]}'
    texts = [
        "a",
        "Ü",
        " ",
        'a "quoted" word',
        "back\\slash",
        "\n",
        "\u2028",
        "",
        "👋",
        "a",
        '"',
        "{}",
    ]
    reader = ChatReader()
    found = []
    for text in texts:
        for encoded in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
            frame = around % (encoded, "null")
            found += reader.feed(f"data: {frame}\n\n".encode())
    found += reader.feed(f"data: {around % (json.dumps('end'), json.dumps('stop'))}\n\n".encode())
    assert [delta["content"] for delta in found] == [
        *(text for text in texts for _ in range(2) if text),
        "end",
    ]
    assert reader.feed(b"data: [DONE]\n\n") == [Finished("stop", None)]


def test_a_frame_that_only_looks_like_the_others_is_parsed() -> None:
    reader = ChatReader()
    head, tail = '{"choices":[{"index":0,"delta":{"content":"', '"},"finish_reason":null}]}'
    reader.feed(f"data: {head}a{tail}\n\n".encode())
    two = f'{head}b"}},"finish_reason":"stop"}}],"x":[{{"delta":{{"content":"{tail}'
    assert [delta["content"] for delta in reader.feed(f"data: {two}\n\n".encode())] == ["b"]


ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
SAYS = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n\n'
ENDS = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize(
    ("frames", "nothing"),
    [
        (ROLE, True),
        (ROLE + ROLE, True),
        (b": keep-alive\n\n", True),
        (b": keep-alive\n\n" + ROLE.replace(b"\n\n", b"\r\n\r\n"), True),
        (ROLE.replace(b'""', b"null"), True),
        (SAYS, False),
        (ROLE + SAYS, False),
        (ROLE + ENDS, False),
        (b": keep-alive\n\n" + SAYS, False),
        (SAYS.replace(b'"role":"assistant",', b""), False),
        (b'data: {"role"}\n\n', False),
        (b'data: {"role": 1}\n\n', False),
        (b"data: [DONE]\n\n", False),
    ],
)
def test_who_speaks_is_no_piece_of_an_answer(frames: bytes, nothing: bool) -> None:
    assert says_nothing(frames) is nothing
