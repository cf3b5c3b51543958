from typing import Any

import pytest

from accounts.errors import Invalid, InvalidRequest
from router.registry_schemas import RegistryFile
from router.schemas import ChatRequest, OpenAIChat, parse

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, {"messages": HELLO, **fields})


def test_zero_is_a_value_and_none_is_not() -> None:
    options = chat(options={"temperature": 0, "seed": 0, "topP": None}).options
    assert options.given() == {"temperature": 0, "seed": 0}


def test_both_spellings_of_an_option_are_accepted() -> None:
    camel = chat(options={"topP": 0.5, "maxTokens": 7}).options
    snake = chat(options={"top_p": 0.5, "max_tokens": 7}).options
    assert camel.given() == snake.given() == {"top_p": 0.5, "max_tokens": 7}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"zork": 1}, "zork"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 422, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": None}, 400, "messages"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 422, "messages[0]"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            400,
            "messages[0].content[0]",
        ),
        ({"options": {"temperature": 2.1}}, 422, "options.temperature"),
        ({"options": {"temperature": -0.1}}, 422, "options.temperature"),
        ({"options": {"temperature": "0"}}, 400, "options.temperature"),
        ({"options": {"temperature": True}}, 400, "options.temperature"),
        ({"options": {"maxTokens": 0}}, 422, "options.maxTokens"),
        ({"options": {"maxTokens": 1.5}}, 400, "options.maxTokens"),
        ({"options": []}, 400, "options"),
        ({"stream": "yes"}, 400, "stream"),
        ({"format": "yaml"}, 400, "format"),
        ({"role": ""}, 422, "role"),
        ({"role": "persona", "model": "x"}, 422, None),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(
    fields: dict[str, Any], status: int, param: str | None
) -> None:
    with pytest.raises((Invalid, InvalidRequest)) as caught:
        chat(**fields)
    assert (caught.value.status, caught.value.param) == (status, param)


def test_what_was_said_is_not_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{"role": "user", "content": {"secret": "words"}}])
    assert "secret" not in caught.value.message
    assert caught.value.__cause__ is None


def test_parts_tools_and_schemas_are_accepted() -> None:
    parts = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    request = chat(
        messages=[{"role": "user", "content": parts}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        toolChoice="auto",
        format={"type": "object"},
    )
    assert request.messages[0].given() == {"role": "user", "content": parts}


def test_openai_requests_keep_what_we_do_not_know() -> None:
    parse(OpenAIChat, {"messages": HELLO, "guided_json": {}, "temperature": None}, always_400=True)
    with pytest.raises(InvalidRequest) as caught:
        parse(OpenAIChat, {"messages": HELLO, "temperature": 3}, always_400=True)
    assert caught.value.param == "temperature"


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse(ChatRequest, [1])


def test_a_chain_that_names_no_model_is_refused() -> None:
    with pytest.raises(Invalid, match="'ghost'"):
        parse(RegistryFile, {"models": {}, "roles": {"persona": ["ghost"]}})
