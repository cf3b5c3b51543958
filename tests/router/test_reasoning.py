"""Reasoning that an engine leaves in the text."""

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.events import ReasoningEvent, TokenEvent
from router.providers.base import Delta, Finished
from router.reasoning import ThinkSplitter, split_reasoning
from tests.backends.faults.table import fault

TAGGED = "<think>\nParis < Lyon? No.</thin> no </think>\n\nIt is <b>Paris</b>."
THOUGHT, ANSWER = "Paris < Lyon? No.</thin> no ", "It is <b>Paris</b>."


def split(pieces: list[str], *, opened: bool = False) -> tuple[str, str]:
    splitter = ThinkSplitter(opened=opened)
    found = [piece for text in pieces for piece in splitter.feed(text)] + splitter.end()
    return (
        "".join(text for thinking, text in found if thinking),
        "".join(text for thinking, text in found if not thinking),
    )


@fault(32)
@given(st.lists(st.integers(0, len(TAGGED)), max_size=12))
def test_reasoning_in_the_text_comes_apart_wherever_it_is_cut(cuts: list[int]) -> None:
    edges = sorted({0, *cuts, len(TAGGED)})
    pieces = [TAGGED[begin:end] for begin, end in pairwise(edges)]
    assert split(pieces) == (THOUGHT, ANSWER)
    untagged = TAGGED.removeprefix("<think>\n")
    edges = sorted({0, *(min(cut, len(untagged)) for cut in cuts), len(untagged)})
    pieces = [untagged[begin:end] for begin, end in pairwise(edges)]
    assert split(pieces, opened=True) == (THOUGHT, ANSWER)


@fault(32)
def test_reasoning_is_passed_on_as_it_comes() -> None:
    splitter = ThinkSplitter()
    assert splitter.feed("<thi") == []
    assert splitter.feed("nk>one ") == [(True, "one ")]
    assert splitter.feed("two </th") == [(True, "two ")]
    assert splitter.feed("ink>") == []
    assert splitter.feed("\n\nfour") == [(False, "four")]
    assert splitter.done


@given(st.text(alphabet="<think/> \nab", max_size=30), st.integers(0, 30))
def test_text_without_a_tag_at_its_beginning_is_left_as_it_is(text: str, cut: int) -> None:
    if not text.lstrip().startswith("<think>"):
        assert split([text[:cut], text[cut:]]) == ("", text)


@pytest.mark.parametrize(
    "text", ["a <think> b </think> c", "</think>a", "<thinking>a</thinking>", "<", "\n <think"]
)
def test_a_tag_somewhere_else_is_text(text: str) -> None:
    assert split([text]) == ("", text)


def test_what_should_have_begun_with_reasoning_and_never_closed_it_is_the_answer() -> None:
    assert split(["Just ", "an answer."], opened=True) == ("Just an answer.", "Just an answer.")
    assert split(["<think>cut off"]) == ("cut off", "")
    splitter = ThinkSplitter(opened=True)
    splitter.feed("thinking for too long")
    assert splitter.end(whole=False) == []


async def deltas(*found: Delta) -> AsyncIterator[Delta]:
    for delta in found:
        yield delta


async def events(*found: Delta, opened: bool = False) -> list[Delta]:
    return [delta async for delta in split_reasoning(deltas(*found), opened=opened)]


async def test_an_engine_that_says_reasoning_apart_is_believed() -> None:
    said: list[Delta] = [
        ReasoningEvent(type="reasoning", content="hm"),
        TokenEvent(type="token", content="<think> is a tag"),
        Finished("stop"),
    ]
    assert await events(*said, opened=True) == said


async def test_probabilities_stay_with_the_answer() -> None:
    entry = {"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": []}
    token = TokenEvent(type="token", content="\n", logprobs=[entry])  # type: ignore[list-item]
    found = await events(token, TokenEvent(type="token", content="a"), Finished("stop"))
    assert found[0] == {"type": "token", "content": "\na", "logprobs": [entry]}
    assert found[1] == Finished("stop")


async def test_what_is_held_back_comes_before_the_end() -> None:
    assert await events(TokenEvent(type="token", content="<"), Finished("length")) == [
        {"type": "token", "content": "<"},
        Finished("length"),
    ]
