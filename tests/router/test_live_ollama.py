"""Ollama behind our own surfaces, on real sockets: ``/api/chat``, and ``/v1`` by the official ``openai`` client."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.router.live import Site
from tests.router.ollama_live import LONG, OLLAMA_MODEL, FakeOllamaServer

pytestmark = pytest.mark.process

FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
GO: Any = [{"role": "user", "content": "go"}]


@pytest.fixture
def client(site: Site, ollama: FakeOllamaServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{site.url}/v1", api_key=site.tokens["standard"], max_retries=0) as found:
        yield found


def ask(site: Site, **fields: Any) -> Any:
    body = {"model": OLLAMA_MODEL, "messages": FRANCE, **fields}
    with httpx.Client(headers=site.auth, trust_env=False, timeout=30) as http:
        return http.post(f"{site.url}/api/chat", json=body).json()


def test_a_chat_is_answered_with_everything_the_contract_names(
    site: Site, ollama: FakeOllamaServer
) -> None:
    answer = ask(site)
    assert answer.pop("timings")["ttft_ms"] > 0
    assert answer.pop("request_id")
    assert answer["usage"]["completion_tokens"] == 9
    del answer["usage"]
    assert answer == {
        "content": PARIS,
        "reasoning": "Let me",
        "tool_calls": [],
        "model": OLLAMA_MODEL,
        "provider": "ollama",
        "backend": "ollama",
        "finish_reason": "stop",
    }
    ollama.habits("tool")
    answer = ask(site, tools=TOOLS, options={"think": False})
    call = {"id": "call_fake0001", "name": "weather", "arguments": '{"city": "Paris"}'}
    assert (answer["tool_calls"], answer["finish_reason"]) == ([call], "tool_calls")


def test_errors_say_what_to_do(site: Site, ollama: FakeOllamaServer) -> None:
    remote = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    error = ask(site, messages=[{"role": "user", "content": remote}])["error"]
    assert error["code"] in {"not_supported", "image_url_refused"}
    ollama.habits("crash-load")
    ollama.client.post(
        f"{ollama.endpoint}/api/generate", json={"model": OLLAMA_MODEL, "keep_alive": 0}
    )
    error = ask(site, model=LONG)["error"]
    assert error["code"] == "model_load_failed"
    assert "mh ollama logs" in error["message"]


def test_openais_client_chats(client: OpenAI) -> None:
    whole = client.chat.completions.create(
        model=OLLAMA_MODEL, messages=FRANCE, reasoning_effort="low", logprobs=True, top_logprobs=1
    )
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason) == (PARIS, "stop")
    assert (choice.message.model_extra or {})["reasoning"] == "Let me"
    assert choice.logprobs
    assert choice.logprobs.content
    assert len(choice.logprobs.content[0].top_logprobs) == 1
    assert whole.usage
    assert whole.usage.completion_tokens == 9
    stream = client.chat.completions.create(
        model=OLLAMA_MODEL, messages=FRANCE, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == PARIS
    assert chunks[-1].usage
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_openais_client_calls_tools_and_gets_json(client: OpenAI, ollama: FakeOllamaServer) -> None:
    ollama.habits("tool")
    answer = client.chat.completions.create(model=OLLAMA_MODEL, messages=FRANCE, tools=TOOLS)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    answer = client.chat.completions.create(
        model=OLLAMA_MODEL, messages=[*FRANCE, message, result], tools=TOOLS
    )
    assert answer.choices[0].message.content == PARIS
    assert ollama.state()["last"]["messages"][-1]["tool_name"] == "weather"
    schema: Any = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}},
    }
    answer = client.chat.completions.create(
        model=OLLAMA_MODEL, messages=FRANCE, response_format=schema
    )
    assert json.loads(answer.choices[0].message.content or "") == {"answer": "fake"}


def test_openais_client_completes_a_raw_prompt(client: OpenAI, ollama: FakeOllamaServer) -> None:
    prompt: Any = {
        "model": OLLAMA_MODEL,
        "prompt": "capital of France",
        "extra_body": {"think": False},
    }
    whole = client.completions.create(**prompt)
    assert whole.choices[0].text.endswith(PARIS)
    assert ollama.state()["last"]["raw"] is True
    stream = client.completions.create(**prompt, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream).endswith(PARIS)
    with pytest.raises(openai.BadRequestError, match="one prompt"):
        client.completions.create(model=OLLAMA_MODEL, prompt=["a", "b"])


def test_openais_client_gets_its_typed_errors(client: OpenAI, ollama: FakeOllamaServer) -> None:
    with pytest.raises(openai.BadRequestError) as several:
        client.chat.completions.create(model=OLLAMA_MODEL, messages=FRANCE, n=2)
    assert several.value.param == "n"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(
            model=OLLAMA_MODEL, messages=[{"role": "user", "content": "word " * 5000}]
        )
    assert too_long.value.code == "context_length_exceeded"
    ollama.habits("crash-after=3")
    with pytest.raises(openai.APIError, match=r"engine|Ollama"):
        list(client.chat.completions.create(model=OLLAMA_MODEL, messages=FRANCE, stream=True))


@pytest.mark.fault(24)
@pytest.mark.parametrize("path", ["chat", "completions"])
def test_a_client_that_leaves_stops_the_generation(
    client: OpenAI, ollama: FakeOllamaServer, path: str
) -> None:
    before = ollama.state()["aborted"]
    ollama.habits("token=0.05", "tokens=2000")
    stream: Any = (
        client.chat.completions.create(model=OLLAMA_MODEL, messages=GO, stream=True)
        if path == "chat"
        else client.completions.create(model=OLLAMA_MODEL, prompt="go", stream=True)
    )
    with closing(stream):
        next(iter(stream))
    ollama.await_abort(before)
