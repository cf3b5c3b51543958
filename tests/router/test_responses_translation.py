"""The Responses API as a chat, and a chat as its events."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from accounts.errors import InvalidRequest, MhError
from router.responses_translation import OpenAIResponse, ResponseWriter, chat_fields
from router.schemas import ChatRequest, parse

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def asked(given: Any = "hello", **more: Any) -> OpenAIResponse:
    return parse(OpenAIResponse, {"model": "m", "input": given, **more}, always_400=True)


def fields(given: Any = "hello", **more: Any) -> dict[str, Any]:
    found = chat_fields(asked(given, **more))
    parse(ChatRequest, found)
    return found


def test_a_text_is_a_message_of_the_user() -> None:
    found = fields("hello", instructions="Be brief.", temperature=0, max_output_tokens=7)
    assert found["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert found["options"] == {"temperature": 0, "max_tokens": 7}


def test_items_become_messages_and_calls_of_tools_are_joined() -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    found = fields(
        [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "where?"},
                    {"type": "input_image", "image_url": image, "detail": "low"},
                ],
            },
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "a"},
                    {"type": "refusal", "refusal": "b"},
                ],
            },
        ]
    )
    developer, user, calls, output, assistant = found["messages"]
    assert developer == {"role": "developer", "content": "Be brief."}
    assert user["content"][1] == {
        "type": "image_url",
        "image_url": {"url": image, "detail": "low"},
    }
    assert [call["function"]["name"] for call in calls["tool_calls"]] == ["f", "g"]
    assert output == {"role": "tool", "tool_call_id": "1", "content": "one"}
    assert assistant == {"role": "assistant", "content": "ab"}


def test_tools_formats_and_efforts_are_translated() -> None:
    schema = {"type": "object"}
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    found = fields(
        tools=[tool],
        tool_choice={"type": "function", "name": "f"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        reasoning={"effort": "minimal"},
    )
    function = {"name": "f", "parameters": {}, "strict": True}
    assert found["tools"] == [{"type": "function", "function": function}]
    assert found["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert (found["format"], found["options"]["think"]) == (schema, "low")
    assert fields(text={"format": {"type": "json_object"}})["format"] == "json"
    assert fields(reasoning={"effort": "none"})["options"] == {"think": False}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].arguments"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        fields(more.pop("input", "hello"), **more)
    assert (caught.value.status, caught.value.param) == (400, param)


START = {"type": "start", "model": "the-model", "provider": "p", "backend": "b", "request_id": "r"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def done(reason: str = "stop") -> dict[str, Any]:
    return {"type": "done", "finish_reason": reason, "usage": USAGE, "timings": {}}


def written(*events: dict[str, Any]) -> list[Any]:
    """The frames, as the official client reads them."""
    writer = ResponseWriter(asked(), "id")
    frames = b"".join(frame for event in events for frame in writer.feed(event))  # type: ignore[arg-type]
    found = []
    for number, block in enumerate(frames.decode().split("\n\n")[:-1]):
        name, data = block.split("\n")
        body = json.loads(data.removeprefix("data: "))
        assert name == f"event: {body['type']}"
        assert body["sequence_number"] == number
        found.append(EVENT.validate_python(body, strict=False))
    return found


@pytest.mark.parametrize("odd", [{}, [], {"a": 1}, 5, None, True])
def test_a_kind_that_is_no_text_is_refused_by_its_place(odd: Any) -> None:
    with pytest.raises(MhError) as caught:
        fields([{"role": "user", "content": [{"type": odd, "text": "x"}]}])
    assert (caught.value.status, caught.value.param) == (400, "input[0].content[0]")
    image = {
        "type": "input_image",
        "image_url": "data:image/png;base64,iVBORw0KGgo=",
        "detail": odd,
    }
    part = fields([{"role": "user", "content": [image]}])["messages"][0]["content"][0]
    assert "detail" not in part["image_url"]


def test_thoughts_alone_are_nothing_to_answer() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat_fields(asked([{"type": "reasoning", "summary": []}]))
    assert (caught.value.code, caught.value.param) == ("nothing_to_answer", "input")


def test_a_stream_has_every_event_in_its_order() -> None:
    found = written(
        START,
        {"type": "reasoning", "content": "hm"},
        {"type": "token", "content": "Par"},
        {"type": "token", "content": "is"},
        {"type": "tool_call", "tool_call": {"index": 0, "id": "c", "name": "f", "arguments": ""}},
        {"type": "tool_call", "tool_call": {"index": 0, "arguments": '{"a":'}},
        {"type": "tool_call", "tool_call": {"index": 0, "arguments": "1}"}},
        {"type": "tool_call", "tool_call": {"index": 1, "name": "g", "arguments": "{}"}},
        done("tool_calls"),
    )
    text = ["output_item.added", "content_part.added"]
    ends = ["content_part.done", "output_item.done"]
    call = "function_call_arguments"
    assert [event.type.removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        *[*text, "reasoning_text.delta", "reasoning_text.done", *ends],
        *[*text, "output_text.delta", "output_text.delta", "output_text.done", *ends],
        *["output_item.added", f"{call}.delta", f"{call}.delta", f"{call}.done", ends[1]],
        *["output_item.added", f"{call}.delta", f"{call}.done", ends[1]],
        "completed",
    ]
    response = found[-1].response
    assert response.output_text == "Paris"
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        *["function_call"] * 2,
    ]
    assert response.output[2].arguments == '{"a":1}'
    assert (response.usage.input_tokens, response.usage.output_tokens) == (1, 2)
    assert (response.model, response.status, response.store) == ("the-model", "completed", False)


def test_what_is_cut_off_is_incomplete_and_what_breaks_off_has_failed() -> None:
    last = written(START, {"type": "token", "content": "a"}, done("length"))[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"
    error = {"message": "The engine stopped.", "type": "x", "code": "engine_stopped", "param": None}
    *_, broken = written(START, {"type": "error", "error": error})
    assert broken.type == "response.failed"
    assert broken.response.error.message == "The engine stopped."
    frame = ResponseWriter(asked(), "id").failed(MhError("It is over."))
    assert b"event: response.failed" in frame


def test_a_whole_response_is_what_the_client_expects() -> None:
    result: Any = {
        "content": "Paris",
        "reasoning": "hm",
        "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}],
        "model": "the-model",
        "finish_reason": "stop",
        "usage": USAGE,
    }
    response = Response.model_validate(ResponseWriter(asked(), "id").whole(result))
    assert response.output_text == "Paris"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
