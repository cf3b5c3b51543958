"""``/v1/chat/completions`` translated: requests to chats, deltas to OpenAI's frames."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from accounts.errors import InvalidRequest, MhError
from router.errors import EngineStopped, NotSupported
from router.events import ReasoningEvent, TokenEvent, ToolCallEvent, ToolCallPiece, Usage
from router.openai_translation import chat_call, translated, translated_whole
from router.providers.base import ChatCall, Delta, Finished, Waits

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
USAGE = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)


def call(options: Any = None, **fields: Any) -> ChatCall:
    asked = {"model": "x", "messages": HELLO, **fields}
    return chat_call(asked, model="m", options=options or {}, request_id="r1")


def token(text: str, **more: Any) -> TokenEvent:
    return TokenEvent(type="token", content=text, **more)


def piece(**fields: Any) -> ToolCallEvent:
    return ToolCallEvent(type="tool_call", tool_call=ToolCallPiece(**fields))  # type: ignore[typeddict-item]


CALLS: Sequence[Delta] = (
    piece(index=0, id="call_1", name="weather", arguments='{"city":'),
    piece(index=0, arguments='"Paris"}'),
    piece(index=1, id="call_2", name="time", arguments="{}"),
    Finished("tool_calls", USAGE),
)
TEXT: Sequence[Delta] = (
    Waits("cold"),
    ReasoningEvent(type="reasoning", content="Hm."),
    token("Par", logprobs=[{"token": "Par", "logprob": -0.5}]),
    token("is🙂"),
    Finished("length", USAGE),
)


async def said(deltas: Sequence[Delta], error: MhError | None = None) -> AsyncIterator[Delta]:
    for delta in deltas:
        yield delta
    if error:
        raise error


async def chunks(deltas: Sequence[Delta], **fields: Any) -> list[ChatCompletionChunk]:
    found = [frame async for frame in translated(said(deltas), call(), fields)]
    frames = b"".join(frame for frame in found if isinstance(frame, bytes))
    *events, done, rest = frames.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    return [ChatCompletionChunk.model_validate(item) for item in parsed]


async def whole(deltas: Sequence[Delta]) -> ChatCompletion:
    *_, body = [item async for item in translated_whole(said(deltas), call())]
    assert isinstance(body, bytes)
    return ChatCompletion.model_validate_json(body)


def test_what_the_request_sets_wins_over_the_registry_and_zero_is_a_value() -> None:
    defaults = {"temperature": 0.8, "num_ctx": 4096, "top_p": 0.5, "think": True}
    asked = call(defaults, temperature=0, max_completion_tokens=7, reasoning_effort="none")
    assert asked.options == {
        "temperature": 0,
        "num_ctx": 4096,
        "top_p": 0.5,
        "think": False,
        "max_tokens": 7,
    }
    assert (asked.model, asked.request_id, asked.messages) == ("m", "r1", HELLO)


def test_what_reloads_a_model_is_not_a_requests_to_set() -> None:
    assert call({"num_ctx": 4096}, num_ctx=512, keep_alive=0).options == {"num_ctx": 4096}


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"think": True}, True),
    ],
)
def test_how_much_to_think_has_many_names(fields: dict[str, Any], think: Any) -> None:
    assert call(**fields).options == {"think": think}


def test_formats_and_tools_are_ours() -> None:
    schema = {"type": "object"}
    given = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert call(response_format=given).format == schema
    assert call(response_format={"type": "json_object"}).format == "json"
    assert call(response_format={"type": "text"}).format is None
    asked = call(tools=[TOOL], tool_choice="auto")
    assert (asked.tools, asked.tool_choice) == ([TOOL], "auto")
    assert call(tools=[], stop=[], n=1, logit_bias={}).options == {}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"top_k": "many"}, "top_k"),
        ({"reasoning_effort": "huge"}, "think"),
        ({"stop": ["x"] * 17}, "stop"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(**fields)
    assert caught.value.param == param
    assert isinstance(caught.value, NotSupported) == (
        param in {"n", "logit_bias", "functions", "modalities"}
    )


async def test_a_stream_is_role_pieces_reason_and_end() -> None:
    found = await chunks(TEXT)
    deltas = [chunk.choices[0].delta for chunk in found]
    assert deltas[0].role == "assistant"
    assert deltas[1].model_extra == {"reasoning": "Hm."}
    assert [delta.content for delta in deltas] == ["", None, "Par", "is🙂", None]
    assert [chunk.choices[0].finish_reason for chunk in found] == [None] * 4 + ["length"]
    logprobs = found[2].choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert logprobs.content[0].logprob == -0.5
    assert {(chunk.id, chunk.model, chunk.object) for chunk in found} == {
        ("chatcmpl-r1", "m", "chat.completion.chunk")
    }
    assert all(chunk.usage is None for chunk in found)


async def test_usage_comes_last_where_it_was_asked_for() -> None:
    found = await chunks(TEXT, stream_options={"include_usage": True})
    assert (found[-1].choices, found[-1].usage and found[-1].usage.total_tokens) == ([], 5)
    assert all(chunk.usage is None for chunk in found[:-1])


async def test_tool_calls_come_in_pieces_and_are_put_together() -> None:
    found = [chunk.choices[0].delta.tool_calls for chunk in await chunks(CALLS)]
    pieces = [part[0] for part in found if part]
    assert [(p.index, p.id, p.type, p.function and p.function.arguments) for p in pieces] == [
        (0, "call_1", "function", '{"city":'),
        (0, None, None, '"Paris"}'),
        (1, "call_2", "function", "{}"),
    ]
    message = (await whole(CALLS)).choices[0].message
    assert message.content is None
    assert [item.model_dump() for item in message.tool_calls or ()] == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]  # fmt: skip


async def test_a_whole_answer_has_everything() -> None:
    answer = await whole(TEXT)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Paris🙂", "length")
    assert choice.message.model_extra == {"reasoning": "Hm."}
    assert choice.logprobs
    assert answer.usage
    assert answer.usage.total_tokens == 5


async def test_what_breaks_off_has_no_end() -> None:
    frames = translated(said(TEXT[:3], EngineStopped("x")), call(), {})
    assert await anext(frames) == Waits("cold")
    begun = b"".join(
        [frame for frame in (await anext(frames), await anext(frames)) if isinstance(frame, bytes)]
    )
    assert b"[DONE]" not in begun
    assert b'"finish_reason":"' not in begun
    with pytest.raises(EngineStopped):
        await anext(frames)
    with pytest.raises(EngineStopped):
        await anext(translated_whole(said(TEXT[1:3], EngineStopped("x")), call()))
