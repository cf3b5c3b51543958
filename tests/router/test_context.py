"""What is left out of a conversation that is too long."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.context import Message, room, trim


def say(role: str, content: str = "word " * 20, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = say(
    "assistant", "", tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "x" * 90}}]
)
TALK: list[Message] = [
    say("system"),
    say("user", "one " * 25),
    say("assistant"),
    say("user", "two " * 25),
    CALL,
    say("tool", tool_call_id="1"),
    say("assistant"),
    say("user", "three " * 20),
]


def test_nothing_is_left_out_of_what_fits() -> None:
    assert trim(TALK, 100, 100) == TALK


def test_the_oldest_turns_go_first_and_whole() -> None:
    assert trim(TALK, 101, 100) == [TALK[0], *TALK[3:]]
    assert trim(TALK, 1000, 100) == [TALK[0], TALK[-1]]


def test_where_nothing_may_go_nothing_does() -> None:
    least = [TALK[0], TALK[-1]]
    assert trim(least, 1000, 1) == least
    assert trim([say("assistant")], 1000, 1) == [say("assistant")]


def test_calls_of_the_last_turn_go_with_their_results_but_for_the_latest() -> None:
    result = say("tool", tool_call_id="1")
    working = [say("system"), say("user"), CALL, result, CALL, result, result]
    assert trim(working, 1000, 1) == [say("system"), say("user"), CALL, result, result]


@given(
    st.lists(st.sampled_from(["system", "user", "call", "tool", "assistant"]), max_size=20),
    st.integers(1, 500),
)
def test_it_always_ends_and_keeps_what_must_stay(roles: list[str], limit: int) -> None:
    messages: list[Message] = [CALL if role == "call" else say(role) for role in roles]
    left = trim(messages, 1000, limit)
    for role in ("system", "developer"):
        assert [m for m in left if m["role"] == role] == [m for m in messages if m["role"] == role]
    if "user" in roles:
        assert "user" in [message["role"] for message in left]
    assert left[-1:] == messages[-1:]
    again = left
    for _ in range(len(messages)):
        again = trim(again, 1000, limit)
    assert trim(again, 1000, limit) == again


def test_the_answer_has_its_room() -> None:
    assert room(2048, {"max_tokens": 48}) == 2000
    assert room(2048, {}) == 1792
    assert room(2048, {"max_tokens": 5000}) == 2048
