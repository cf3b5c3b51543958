"""The official ``openai`` client, as its users use it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

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


FRANCE: Any = [{"role": "user", "content": "capital of France?"}]
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class City(BaseModel):
    city: str


def test_calls_of_tools_are_put_together_by_the_client(client: OpenAI, site: Site) -> None:
    site.engine.behave("tool", "split")
    with client.chat.completions.stream(model=MODEL, messages=FRANCE, tools=[WEATHER]) as stream:
        streamed = stream.get_final_completion()
    whole = client.chat.completions.create(model=MODEL, messages=FRANCE, tools=[WEATHER])
    for answer in (streamed, whole):
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.function.name == "weather"  # type: ignore[union-attr]
        assert json.loads(call.function.arguments) == {"city": "Paris"}  # type: ignore[union-attr]


def test_a_json_schema_reaches_the_engine(client: OpenAI, site: Site) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=FRANCE, response_format=City)
    assert answer.choices[0].message.parsed == City(city="Paris")
    sent = site.engine.state()["last"]["response_format"]
    assert sent["json_schema"]["schema"]["required"] == ["city"]


def test_several_answers_and_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=FRANCE, n=2, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    entries = answer.choices[1].logprobs.content  # type: ignore[union-attr]
    assert [entry.token for entry in entries][-1] == "."
    assert len(entries[0].top_logprobs) == 2
    stream = client.chat.completions.create(model=MODEL, messages=FRANCE, n=2, stream=True)
    pieces = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == ["The capital of France is Paris."] * 2


def test_images_are_checked_before_they_are_passed_on(client: OpenAI, site: Site) -> None:
    def look(url: str) -> str:
        image: Any = {"type": "image_url", "image_url": {"url": url}}
        text: Any = {"type": "text", "text": "capital of France"}
        messages: Any = [{"role": "user", "content": [text, image]}]
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        return answer.choices[0].message.content or ""

    site.engine.behave("vision")
    assert look(PNG) == "The capital of France is Paris."
    for url in ("https://example.com/a.png", "data:image/png;base64,PHN2Zz4=", "file:///a.png"):
        with pytest.raises(openai.BadRequestError) as refused:
            look(url)
        assert refused.value.param == "messages[0].content[1]"
    with pytest.raises(openai.APIStatusError) as large:
        look("data:image/png;base64," + "A" * 14_000_000)
    assert (large.value.status_code, large.value.code) == (413, "image_too_large")  # type: ignore[attr-defined]
    site.engine.behave()
    with pytest.raises(openai.BadRequestError, match="multimodal"):
        look(PNG)


def test_embeddings_one_or_many(client: OpenAI, site: Site) -> None:
    with pytest.raises(openai.BadRequestError, match="no embeddings") as none:
        client.embeddings.create(model=MODEL, input="hello")
    assert none.value.code == "not_supported"
    site.engine.behave("embeds")
    one = client.embeddings.create(model="role:embedder", input="hello", dimensions=2)
    assert one.data[0].embedding == [5.0, 0.5]
    # The client asks for base64 where nothing else is asked for.
    assert site.engine.state()["last"]["encoding_format"] == "base64"
    assert "temperature" not in site.engine.state()["last"]
    many = client.embeddings.create(model=MODEL, input=["a", "bb"], encoding_format="float")
    assert [row.embedding[0] for row in many.data] == [1.0, 2.0]
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model=MODEL, input=["a"], dimensions=0)
    assert wrong.value.param == "dimensions"


def test_responses_streamed_and_not(client: OpenAI, site: Site) -> None:
    site.engine.behave("think")
    whole = client.responses.create(model=MODEL, input="capital of France?", temperature=0)
    with client.responses.stream(model=MODEL, input="capital of France?") as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    for response in (whole, streamed):
        assert response.output_text == "The capital of France is Paris."
        assert [item.type for item in response.output] == ["reasoning", "message"]
        assert response.usage.total_tokens > 7  # type: ignore[union-attr]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    site.engine.behave()
    parsed = client.responses.parse(model=MODEL, input="which city?", text_format=City)
    assert parsed.output_parsed == City(city="Paris")
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(model=MODEL, input="more", previous_response_id="resp_1")
    assert kept.value.param == "previous_response_id"


def test_responses_that_break_off_say_so(client: OpenAI, site: Site) -> None:
    site.engine.behave("cut-after=3")
    events = list(client.responses.create(model=MODEL, input="capital of France?", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message.startswith("The engine stopped")


def test_time_outs_and_waits_are_typed(client: OpenAI, site: Site) -> None:
    site.engine.behave("silent")
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.5))
    site.engine.await_running(0)
    site.engine.behave("status=429", "retry-after=1")
    with pytest.raises(openai.RateLimitError) as busy:
        chat(client)
    assert busy.value.response.headers["retry-after"] == "1"
    site.engine.behave()
    # It retries by itself, after as many seconds as it was told.
    assert chat(client.with_options(max_retries=4)) == "The capital of France is Paris."
