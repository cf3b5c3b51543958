import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.providers import sse
from router.providers.sse import EventTooLong, SseDecoder, SseEvent, events_of

text = st.text(
    st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",)), max_size=12
)
line_end = st.sampled_from(["\n", "\r\n", "\r"])
line = st.one_of(
    text.map(lambda value: f"data: {value}"),
    text.map(lambda value: f"data:{value}"),
    text.map(lambda value: f"event: {value}"),
    text.map(lambda value: f": {value}"),
    st.just(""),
    st.just("retry: 10"),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Lines of every kind, each with any line end, a byte order mark perhaps, half a line perhaps."""
    lines = draw(st.lists(st.tuples(line, line_end), max_size=12))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + "".join(a + b for a, b in lines) + draw(text)).encode()


@st.composite
def cuts(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    whole = draw(streams())
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return whole, [whole[a:b] for a, b in zip([0, *places], [*places, len(whole)], strict=True)]


def decoded(pieces: list[bytes]) -> list[SseEvent]:
    decoder = SseDecoder()
    found = [event for piece in pieces for event in decoder.feed(piece)]
    return found + decoder.end()


@settings(deadline=None)
@given(cuts())
def test_events_are_the_same_wherever_the_bytes_are_cut(case: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = case
    assert decoded(pieces) == decoded([whole])
    assert decoded([bytes([byte]) for byte in whole]) == decoded([whole])


def test_an_event_has_its_name_and_its_data_lines_joined() -> None:
    block = b"event: note\ndata: one\ndata:two\nid: 7\nretry: 5\n: comment\n\ndata\n\n"
    assert decoded([block]) == [SseEvent("note", "one\ntwo"), SseEvent("", "")]


def test_half_an_event_at_the_end_is_dropped() -> None:
    assert decoded([b"data: whole\n\ndata: half"]) == [SseEvent("", "whole")]


def test_an_event_without_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "EVENT_MAX", 1000)
    decoder = SseDecoder()
    for _ in range(50):
        decoder.feed(b"data: " + b"x" * 200 + b"\n\n")
    for _ in range(9):
        decoder.feed(b"data: " + b"x" * 100 + b"\n")
    with pytest.raises(EventTooLong):
        decoder.feed(b"data: " + b"x" * 100 + b"\n")


def test_whole_frames_are_read_at_once_whatever_their_form() -> None:
    for frames in (
        b"data: a\n\ndata: b\n\n",
        b"data: a\r\n\r\ndata:b\r\r",
        b"\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    ):
        assert [event.data for event in events_of(frames)] == ["a", "b"]
