"""Chats in Ollama's words."""

from typing import Any

import pytest

from router.errors import NotSupported
from router.providers.base import ChatCall
from router.providers.ollama_payload import chat_payload

HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
OTHER = {"type": "function", "function": {"name": "time", "parameters": {}}}
PNG = "iVBORw0KGgo="


def payload(messages: Any = HELLO, **more: Any) -> dict[str, Any]:
    return chat_payload(ChatCall(model="m", messages=messages, request_id="r", **more))


def image(url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def test_a_chat_is_streamed_and_never_cut_in_silence() -> None:
    assert payload() == {
        "model": "m",
        "messages": HELLO,
        "stream": True,
        "truncate": False,
        "options": {},
    }


@pytest.mark.fault(29)
def test_options_have_ollamas_names_and_zero_is_a_value() -> None:
    ours = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.1,
        "seed": 0,
        "stop": "END",
        "max_tokens": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.1,
        "num_ctx": 8192,
        "keep_alive": "10m",
        "think": "high",
        "logprobs": True,
        "top_logprobs": 2,
    }
    sent = payload(options=ours)
    assert sent["options"] == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 0,
        "min_p": 0.1,
        "seed": 0,
        "stop": ["END"],
        "num_predict": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.0,
        "repeat_penalty": 1.1,
        "num_ctx": 8192,
    }
    beside = {"keep_alive": "10m", "think": "high", "logprobs": True, "top_logprobs": 2}
    assert beside.items() <= sent.items()


@pytest.mark.parametrize(
    ("think", "sent"),
    [(True, True), (False, False), ("max", "max"), ("none", False), ("minimal", "low")],
)
def test_how_much_to_think_is_passed_on(think: Any, sent: Any) -> None:
    assert (
        payload(options={"think": think})["think"] is sent
        or sent == payload(options={"think": think})["think"]
    )


def test_formats_are_json_or_a_schema() -> None:
    schema = {"type": "object"}
    assert payload(format="json")["format"] == "json"
    assert payload(format=schema)["format"] == schema
    assert "format" not in payload(format="text")


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (None, [TOOL, OTHER]),
        ("auto", [TOOL, OTHER]),
        ("required", [TOOL, OTHER]),
        ("none", None),
        ({"type": "function", "function": {"name": "time"}}, [OTHER]),
    ],
)
def test_a_tool_choice_is_said_by_what_is_offered(choice: Any, offered: Any) -> None:
    assert payload(tools=[TOOL, OTHER], tool_choice=choice).get("tools") == offered


def test_a_tools_result_names_its_tool() -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
    }
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "unknown", "name": "other", "content": "?"},
    ]
    _, asked, answered, other = payload(history)["messages"]
    assert asked["tool_calls"] == [
        {"function": {"name": "weather", "arguments": {"city": "Paris"}}, "id": "call_1"}
    ]
    assert asked["content"] == ""
    assert (answered["tool_name"], other["tool_name"]) == ("weather", "other")


def test_arguments_that_are_no_json_are_kept_as_text() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{half"}}
    sent = payload([{"role": "assistant", "tool_calls": [call]}])["messages"][0]
    assert sent["tool_calls"][0]["function"]["arguments"] == {"arguments": "{half"}


def test_images_are_bare_base64_beside_the_text() -> None:
    sent = payload(image(f"data:image/png;base64,{PNG}"))["messages"]
    assert sent == [{"role": "user", "content": "?", "images": [PNG]}]


@pytest.mark.parametrize(
    "url", ["https://example.org/x.png", "data:image/png,raw", "x", "file:///x"]
)
def test_an_image_elsewhere_is_refused_clearly(url: str) -> None:
    with pytest.raises(NotSupported, match="data URL") as caught:
        payload(image(url))
    assert caught.value.param == "messages[0].content[1]"


def test_what_is_neither_text_nor_image_is_refused() -> None:
    with pytest.raises(NotSupported, match="input_audio"):
        payload([{"role": "user", "content": [{"type": "input_audio"}]}])


def test_a_developers_word_is_the_systems() -> None:
    assert payload([{"role": "developer", "content": "x"}])["messages"][0]["role"] == "system"
