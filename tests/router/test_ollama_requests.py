"""What clients of Ollama send, as requests of ours."""

from typing import Any

import pytest

from accounts.errors import InvalidRequest
from router.errors import NotSupported
from router.ollama_requests import chat_asked, generate_asked, otherwise, spelled

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> Any:
    return chat_asked({"model": "m", "messages": HELLO, **fields}).chat


def generate(**fields: Any) -> Any:
    return generate_asked({"model": "m", "prompt": "hello", **fields}).chat


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("qwen3", "qwen3:latest"),
        ("qwen3:latest", "qwen3"),
        ("team/qwen3", "team/qwen3:latest"),
        ("host:5000/team/qwen3", "host:5000/team/qwen3:latest"),
        ("qwen3:14b", None),
        ("role:coder", None),
    ],
)
def test_latest_may_be_said_or_left_out(name: str, other: str | None) -> None:
    assert otherwise(name) == other


def test_a_role_has_no_tag() -> None:
    assert spelled("role:coder:latest") == "role:coder"
    assert spelled("qwen3:latest") == "qwen3:latest"


def test_it_streams_unless_told_not_to() -> None:
    assert chat_asked({"model": "m", "messages": HELLO}).stream
    assert not chat_asked({"model": "m", "messages": HELLO, "stream": False}).stream


def test_options_get_our_names_and_unknown_ones_are_read_over() -> None:
    options = {
        "temperature": 0,
        "num_predict": 128.0,
        "top_k": 40.0,
        "repeat_penalty": 1.1,
        "num_ctx": 512,
        "num_gpu": 99,
        "mirostat": 1,
        "stop": [],
        "seed": None,
    }
    assert chat(options=options, keep_alive="5m").options.given() == {
        "temperature": 0,
        "max_tokens": 128,
        "top_k": 40,
        "repetition_penalty": 1.1,
    }


@pytest.mark.parametrize("limit", [-1, -2, 0])
def test_no_limit_is_no_limit(limit: int) -> None:
    assert chat(options={"num_predict": limit}).options.given() == {}


def test_formats_and_thinking_may_be_empty() -> None:
    request = chat(format="", think="")
    assert (request.format, request.options.think) == (None, None)
    assert chat(format="json", think=False).options.think is False
    assert chat(format={"type": "object"}).format == {"type": "object"}


def test_results_of_tools_find_their_calls_by_name_or_by_turn() -> None:
    calls = [{"function": {"name": name, "arguments": {"x": 1}}} for name in ("f", "g", "h")]
    history = [
        *HELLO,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_name": "g", "content": "2"},
        {"role": "tool", "content": "1"},
        {"role": "tool", "tool_call_id": "own", "content": "3"},
        {"role": "tool", "tool_name": "h", "content": "3"},
        {"role": "tool", "content": "too many"},
    ]
    _, asked, *answers = chat(messages=history).messages
    assert [call["id"] for call in asked.tool_calls] == ["call_1_0", "call_1_1", "call_1_2"]
    assert asked.tool_calls[0]["function"]["arguments"] == '{"x": 1}'
    ids = [answer.tool_call_id for answer in answers]
    assert ids == ["call_1_1", "call_1_0", "own", "call_1_2", "call_6"]


@pytest.mark.parametrize(
    ("start", "kind"),
    [("iVBORw0KGgo=", "png"), ("/9j/4AAQSkY=", "jpeg"), ("R0lGODlhAQA=", "gif"), ("UklGRgAAAAA=", "webp"), ("AAAA", "png")],
)  # fmt: skip
def test_images_become_data_urls_of_their_type(start: str, kind: str) -> None:
    request = generate(images=[start])
    assert request.messages[0].content[1].image_url.url == f"data:image/{kind};base64,{start}"
    alone = chat(messages=[{"role": "user", "content": "", "images": [start]}])
    assert len(alone.messages[0].content) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"messages": [{"role": "user", "images": ["data:image/png;base64,x"]}]},
            "messages[0].images[0]",
        ),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": "x"}, "messages"),
        ({"model": 1}, "model"),
        ({"model": ""}, "model"),
        ({"think": "much"}, "think"),
        ({"format": "yaml"}, "format"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"temperature": 3}}, "options.temperature"),
        ({"options": []}, "options"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("name", ["suffix", "template", "context", "raw"])
def test_what_goes_round_the_models_template_is_refused(name: str) -> None:
    with pytest.raises(NotSupported) as caught:
        generate(**{name: [1] if name == "context" else "x"})
    assert caught.value.param == name
    assert generate(**{name: None}).messages[0].content == "hello"


def test_nothing_to_answer_is_a_load_and_with_no_time_to_stay_an_unload() -> None:
    for asked in (chat_asked({"model": "m", "messages": []}), generate_asked({"model": "m"})):
        assert asked.is_load
    for zero in (0, "0", "0s", "0m"):
        with pytest.raises(NotSupported):
            generate_asked({"model": "m", "keep_alive": zero})
    assert not chat_asked({"model": "m", "messages": HELLO, "keep_alive": 0}).is_load


def test_a_system_message_goes_first() -> None:
    assert [message.role for message in generate(system="Be brief.").messages] == ["system", "user"]
