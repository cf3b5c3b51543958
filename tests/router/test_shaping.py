"""What is done to a chat on its way to a provider and back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.engines.base import Target
from router.errors import ContextTooLong, FormatNotFollowed, too_long
from router.events import ChatEvent, ChatResult, TokenEvent
from router.providers.base import Capabilities, ChatCall, Delta, Finished, Provider
from router.services.formats import format_checked, format_followed
from router.shaping import Shape, chat_shaped
from tests.backends.faults.table import fault

TARGET = Target(endpoint="http://127.0.0.1:1")
LONG = [{"role": "user", "content": f"{number} " + "word " * 40} for number in range(5)]


class Fake(Provider):
    """Counts words; says what it is told to."""

    name, title = "fake", "Fake"

    def __init__(self, said: str = "ok", limit: int = 100, **capabilities: bool) -> None:
        self.capabilities = Capabilities(**capabilities)  # type: ignore[misc, arg-type]
        self.said, self.limit = said, limit
        self.calls: list[ChatCall] = []

    @asynccontextmanager
    async def chat(self, target: Target, call: ChatCall) -> AsyncIterator[AsyncIterator[Delta]]:
        self.calls.append(call)
        if words(call) > self.limit:
            raise too_long(0, 0)

        async def deltas() -> AsyncIterator[Delta]:
            yield TokenEvent(type="token", content=self.said)
            yield Finished("stop")

        yield deltas()

    async def count(self, target: Target, call: ChatCall) -> tuple[int, int]:
        return words(call), self.limit


def words(call: ChatCall) -> int:
    return sum(len(message["content"].split()) for message in call.messages)


async def ask(
    provider: Fake, shape: Shape, messages: Sequence[Any] = (), **more: Any
) -> list[Delta]:
    call = ChatCall(model="m", messages=messages, request_id="r", **more)
    async with chat_shaped(provider, TARGET, call, shape) as deltas:
        return [delta async for delta in deltas]


@fault(33)
async def test_a_prompt_that_is_too_long_is_refused_with_limit_and_count() -> None:
    provider = Fake(counts_tokens=True)
    with pytest.raises(ContextTooLong, match="has 205 tokens; the model takes 100 in all"):
        await ask(provider, Shape(), LONG)
    assert len(provider.calls) == 1
    with pytest.raises(ContextTooLong, match="too long"):
        await ask(Fake(), Shape(), LONG)


@fault(33)
async def test_where_the_role_says_so_old_turns_are_left_out_until_it_fits() -> None:
    provider, shape = Fake(counts_tokens=True), Shape(trims=True)
    await ask(provider, shape, LONG)
    assert provider.calls[0].messages == LONG[3:]
    assert shape.trimmed == 3
    with pytest.raises(ContextTooLong, match="has 123 tokens"):
        await ask(provider, shape, [{"role": "user", "content": "word " * 123}])


async def test_a_format_is_said_only_to_engines_that_do_not_constrain() -> None:
    user = {"role": "user", "content": "hello"}
    told, constrained = Fake(), Fake(schemas=True)
    await ask(told, Shape(), [user], format="json")
    await ask(constrained, Shape(), [user], format="json")
    assert [message["role"] for message in told.calls[0].messages] == ["system", "user"]
    assert constrained.calls[0].messages == [user]


async def test_reasoning_without_its_first_tag_is_looked_for_where_the_registry_says_so() -> None:
    def kinds(found: list[Delta]) -> list[Any]:
        return [delta["type"] for delta in found if isinstance(delta, dict)]

    provider = Fake("hm</think>Paris", reasons_in_text=True)
    assert kinds(await ask(provider, Shape(thinks=True))) == ["reasoning", "token"]
    assert kinds(await ask(provider, Shape())) == ["token"]
    assert kinds(await ask(provider, Shape(thinks=True), options={"think": False})) == ["token"]
    assert kinds(await ask(Fake("hm</think>Paris"), Shape(thinks=True))) == ["token"]


def result(content: str, reason: str = "stop") -> ChatResult:
    return ChatResult(
        content=content,
        reasoning="",
        tool_calls=[],
        model="m",
        provider="p",
        backend="b",
        finish_reason=reason,
        usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        timings={"queued_ms": 1.0, "ttft_ms": 2.0, "total_ms": 3.0},
        request_id="r",
    )


def asked_again(*answers: ChatResult) -> tuple[list[Any], Any]:
    heard: list[Any] = []
    left = list(answers)

    async def again(messages: list[dict[str, Any]]) -> ChatResult:
        heard.append(messages)
        return left.pop(0)

    return heard, again


async def test_a_wrong_answer_is_asked_for_once_more_and_both_are_counted() -> None:
    heard, again = asked_again(result("{}"))
    found = await format_followed(result("Paris"), "json", again)
    assert found["content"] == "{}"
    assert found["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert (found["timings"]["ttft_ms"], found["timings"]["total_ms"]) == (2.0, 6.0)
    assert heard[0][0] == {"role": "assistant", "content": "Paris"}


async def test_what_is_wrong_twice_is_an_error_and_so_is_what_was_cut_off() -> None:
    heard, again = asked_again(result("Lyon"), result("{}"))
    with pytest.raises(FormatNotFollowed, match="asked once more"):
        await format_followed(result("Paris"), "json", again)
    with pytest.raises(FormatNotFollowed, match="max_tokens"):
        await format_followed(result('{"a"', "length"), "json", again)
    assert len(heard) == 1


async def test_right_answers_and_calls_of_tools_are_left_alone() -> None:
    heard, again = asked_again()
    for right in (result("{}"), result("", "tool_calls")):
        assert await format_followed(right, "json", again) == right
    fenced = await format_followed(result("```json\n{}\n```"), "json", again)
    assert (fenced["content"], heard) == ("{}", [])


async def test_a_streamed_answer_in_another_format_ends_in_an_error() -> None:
    async def events(content: str) -> Any:
        yield {"type": "token", "content": content}
        yield {"type": "done", "finish_reason": "stop", "usage": None, "timings": {}}

    async def kinds(content: str) -> list[ChatEvent]:
        return [event async for event in format_checked(events(content), "json", "r")]

    assert [event["type"] for event in await kinds("{}")] == ["token", "done"]
    *_, last = await kinds("Paris")
    assert last["type"] == "error"
    assert last["error"]["code"] == "format_not_followed"
