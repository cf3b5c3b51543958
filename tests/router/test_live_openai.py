"""The official ``openai`` client, as its users use it."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.router.live import MODEL, Site

pytestmark = pytest.mark.process


@pytest.fixture
def client(site: Site) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{site.url}/v1", api_key=site.tokens["standard"], max_retries=0
    ) as client:
        yield client


def chat(client: OpenAI, model: str = MODEL, content: str = "capital of France?") -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], temperature=0
    )
    return answer.choices[0].message.content or ""


def streamed(client: OpenAI) -> str:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "capital of France?"}], stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_it_chats_streamed_and_not(client: OpenAI) -> None:
    assert chat(client) == streamed(client) == "The capital of France is Paris."
    assert chat(client, "role:persona") == chat(client, "default.coder") == chat(client)
    answer = client.completions.create(model=MODEL, prompt="capital of France")
    assert answer.choices[0].text == "The capital of France is Paris."


def test_it_lists_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL
    assert {"default.persona", "role:persona"} <= set(names)
    assert client.models.retrieve(MODEL).owned_by == "vllm"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/nothing")


def test_errors_are_typed(client: OpenAI, site: Site) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "gpt-9")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        chat(client, content="word " * 3000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as bad_value:
        client.chat.completions.create(model=MODEL, messages=[], temperature=0)
    assert bad_value.value.param == "messages"
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="wrong"))
    with pytest.raises(openai.PermissionDeniedError):
        chat(client.with_options(api_key=site.tokens["guest"]))


def test_an_engine_that_fails_is_an_error_in_mid_stream_too(client: OpenAI, site: Site) -> None:
    site.engine.behave("status=500")
    with pytest.raises(openai.InternalServerError):
        chat(client)
    site.engine.behave("status=429")
    with pytest.raises(openai.RateLimitError):
        chat(client)
    for habit in ("error-after=3", "cut-after=3", "end-after=3"):
        site.engine.behave(habit)
        with pytest.raises(openai.APIError, match="engine"):
            streamed(client)
