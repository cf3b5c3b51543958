"""Shapes of requests and answers on real sockets: formats, reasoning, images, prompts that are too long."""

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.backends.faults.table import fault
from tests.router.live import MODEL, Site
from tests.router.test_live_http import FRANCE, PARIS, events, post

pytestmark = pytest.mark.process

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LONG = [{"role": "user", "content": "word " * 3000}]


def chat(site: Site, messages: Any = FRANCE, **more: Any) -> Any:
    return post(site, "/api/chat", {"messages": messages, **more}).json()


@pytest.mark.parametrize("wanted", ["json", CITY])
def test_an_answer_comes_in_its_format(site: Site, wanted: Any) -> None:
    assert json.loads(chat(site, format=wanted)["content"]) == {"city": "Paris"}
    sent = site.engine.state()["last"]
    kind = "json_object" if wanted == "json" else "json_schema"
    assert sent["response_format"]["type"] == kind
    assert sent["messages"] == FRANCE


def test_an_answer_in_another_format_is_asked_for_once_more(site: Site) -> None:
    before = site.engine.state()["started"]
    site.engine.behave("format-ignored=once")
    answer = chat(site, format=CITY)
    assert json.loads(answer["content"]) == {"city": "Paris"}
    # Both were counted: the words of the first, and the pieces of the second.
    assert answer["usage"]["completion_tokens"] == 7 + 3
    assert site.engine.state()["started"] == before + 2
    site.engine.behave("format-ignored")
    response = post(site, "/api/chat", {"messages": FRANCE, "format": CITY})
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "format_not_followed"
    assert site.engine.state()["started"] == before + 4


async def test_a_streamed_answer_in_another_format_ends_in_an_error(site: Site) -> None:
    site.engine.behave("format-ignored")
    body = {"messages": FRANCE, "format": CITY, "stream": True}
    *pieces, last = events(post(site, "/api/chat", body))
    assert "".join(piece.get("content", "") for piece in pieces) == PARIS
    assert (last["type"], last["error"]["code"]) == ("error", "format_not_followed")
    async with connect(site.websocket, additional_headers=site.auth) as socket:
        frame = {"type": "chat", "id": "a", "messages": FRANCE, "format": "json"}
        await socket.send(json.dumps(frame))
        kinds = [json.loads(await socket.recv()) for _ in range(9)]
    assert kinds[-1]["error"]["code"] == "format_not_followed"


def wanted_of(schema: Any) -> dict[str, Any]:
    """``response_format`` of OpenAI's API for what ``format`` says in ours."""
    if schema == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def v1(site: Site, wanted: Any, **more: Any) -> Any:
    body = {"messages": FRANCE, "response_format": wanted_of(wanted), **more}
    return post(site, "/v1/chat/completions", body)


@pytest.mark.parametrize("wanted", ["json", CITY])
def test_openais_format_is_passed_on_as_it_is_and_the_answer_is_the_engines(
    site: Site, wanted: Any
) -> None:
    choice = v1(site, wanted).json()["choices"][0]
    assert json.loads(choice["message"]["content"]) == {"city": "Paris"}
    assert site.engine.state()["last"]["response_format"] == wanted_of(wanted)
    streamed = v1(site, wanted, stream=True)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "error" not in events(streamed)[-1]


@pytest.mark.parametrize("wanted", ["json", CITY])
def test_an_answer_in_another_format_is_asked_for_once_more_over_v1_too(
    site: Site, wanted: Any
) -> None:
    before = site.engine.state()["started"]
    site.engine.behave("format-ignored=once")
    answer = v1(site, wanted).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Paris"}
    assert answer["usage"]["completion_tokens"] == 7 + 3
    assert site.engine.state()["started"] == before + 2
    site.engine.behave("format-ignored")
    response = v1(site, wanted)
    assert response.status_code == 502
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("format_not_followed", "response_format")
    assert site.engine.state()["started"] == before + 4
    # Nobody asked for a format here.
    assert v1(site, "json", response_format={"type": "text"}).status_code == 200
    assert site.engine.state()["started"] == before + 5


def test_a_streamed_answer_in_another_format_ends_in_an_error_over_v1_too(site: Site) -> None:
    site.engine.behave("format-ignored")
    response = v1(site, CITY, stream=True)
    assert "[DONE]" not in response.text
    last = events(response)[-1]
    assert (last["error"]["code"], last["error"]["param"]) == (
        "format_not_followed",
        "response_format",
    )
    said = [event["choices"][0]["delta"].get("content", "") for event in events(response)[:-1]]
    assert "".join(said) == PARIS
    cut = v1(site, CITY, max_tokens=2)
    assert "max_tokens" in cut.json()["error"]["message"]


def test_openais_format_that_cannot_be_used_is_refused_before_anything_is_asked(
    site: Site,
) -> None:
    before = site.engine.state()["started"]
    for bad, code, param in (
        ("json", "invalid_request", "response_format"),
        ({}, "invalid_request", "response_format"),
        ({"type": "json_schema"}, "invalid_request", "response_format.json_schema.schema"),
        (wanted_of({"type": "zork"}), "invalid_schema", "response_format"),
        (wanted_of({"$ref": "http://127.0.0.1/x"}), "invalid_schema", "response_format"),
    ):
        response = v1(site, "json", response_format=bad)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert site.engine.state()["started"] == before


def test_a_format_that_cannot_be_used_is_refused_before_anything_is_asked(site: Site) -> None:
    before = site.engine.state()["started"]
    for bad in ({"type": "zork"}, {"$ref": "http://127.0.0.1/x"}, {"$ref": "#"}):
        response = post(site, "/api/chat", {"messages": FRANCE, "format": bad})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_schema")
    assert site.engine.state()["started"] == before


@fault(32)
@pytest.mark.parametrize("habit", ["reasoning", "reasoning-old", "think"])
def test_reasoning_is_no_part_of_the_answer_however_the_engine_says_it(
    site: Site, habit: str
) -> None:
    site.engine.behave(habit, "split")
    answer = chat(site)
    assert (answer["reasoning"], answer["content"]) == ("Let me think.", PARIS)
    found = events(post(site, "/api/chat", {"messages": FRANCE, "stream": True}))
    kinds = [event["type"] for event in found]
    assert kinds == ["start", *["reasoning"] * 3, *["token"] * 7, "done"]


@fault(33)
@pytest.mark.parametrize("habit", ["", "vague", "counts-on"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_prompt_that_is_too_long_is_refused_with_limit_and_count(
    site: Site, habit: str, path: str, stream: bool
) -> None:
    site.engine.behave(*[habit] if habit else [])
    response = post(site, path, {"messages": LONG, "stream": stream})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "has 3008 tokens; the model takes 2048 in all" in error["message"]


def test_old_turns_are_left_out_where_the_role_says_so(site: Site) -> None:
    site.manage(
        "from router.models import Role;"
        "Role.objects.update_or_create(name='summarizer', defaults={'context': 'trim'})"
    )
    system = {"role": "system", "content": "Be brief."}
    talk = [system, *LONG, {"role": "assistant", "content": "Yes."}, *FRANCE]
    answer = chat(site, talk, role="summarizer")
    assert (answer["content"], answer["trimmed"]) == (PARIS, 2)
    assert site.engine.state()["last"]["messages"] == [system, *FRANCE]
    body = {"messages": talk, "role": "summarizer", "stream": True}
    assert events(post(site, "/api/chat", body))[0]["trimmed"] == 2
    assert post(site, "/api/chat", {"messages": LONG, "role": "summarizer"}).status_code == 400
    body = {"messages": talk, "model": "role:summarizer"}
    for stream in (False, True):
        response = post(site, "/v1/chat/completions", {**body, "stream": stream})
        assert "Paris" in response.text
        sent = site.engine.state()["last"]
        assert (sent["messages"], sent["model"]) == ([system, *FRANCE], MODEL)
    refused = post(site, "/v1/chat/completions", {**body, "messages": LONG})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    # What has room is passed on as it is.
    post(site, "/v1/chat/completions", {**body, "messages": FRANCE, "tools": 5})
    assert site.engine.state()["last"]["messages"] == FRANCE


def test_images_are_checked_on_every_surface(site: Site) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
    messages = [{"role": "user", "content": [image]}]
    part = {"type": "input_image", "image_url": "http://169.254.169.254/"}
    for path, body in (
        ("/api/chat", {"messages": messages}),
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/responses", {"input": [{"role": "user", "content": [part]}]}),
    ):
        response = post(site, path, body)
        assert (response.status_code, response.json()["error"]["code"]) == (
            400,
            "image_url_refused",
        )


def test_probabilities_come_with_the_tokens(site: Site) -> None:
    options = {"logprobs": True, "topLogprobs": 1}
    answer = chat(site, options=options)
    assert [entry["token"] for entry in answer["logprobs"]][-2:] == [" Paris", "."]
    body = {"messages": FRANCE, "options": options, "stream": True}
    token = events(post(site, "/api/chat", body))[1]
    assert token["logprobs"][0]["top_logprobs"][0]["token"] == "The"
