"""The official ``ollama`` client, as its users use it: against a fake vLLM and a fake Ollama behind one site."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from ollama import Client, ResponseError

from tests.router.live import MODEL, Site
from tests.router.ollama_live import CONTEXT, LONG, OLLAMA_MODEL, FakeOllamaServer

pytestmark = pytest.mark.process

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
BOTH = pytest.mark.parametrize("model", [MODEL, OLLAMA_MODEL])


@pytest.fixture
def client(site: Site, ollama: FakeOllamaServer) -> Iterator[Client]:
    with client_of(site, "standard") as found:
        yield found


def client_of(site: Site, user: str) -> Client:
    return Client(host=f"{site.url}/ollama", headers=site.auth_of(user), trust_env=False)


def post(site: Site, path: str, body: Any) -> httpx.Response:
    with httpx.Client(base_url=site.url, headers=site.auth, trust_env=False, timeout=30) as http:
        return http.post(path, json=body)


@BOTH
def test_it_chats_streamed_and_not(client: Client, model: str) -> None:
    whole = client.chat(model=model, messages=FRANCE, think=False)
    assert (whole.message.role, whole.message.content) == ("assistant", PARIS)
    assert (whole.model, whole.done, whole.done_reason) == (model, True, "stop")
    assert whole.eval_count == 7
    assert whole.prompt_eval_count
    assert whole.total_duration
    parts = list(client.chat(model=model, messages=FRANCE, stream=True, think=False))
    assert "".join(part.message.content or "" for part in parts) == PARIS
    assert len(parts) == 8
    assert [part.done for part in parts] == [False] * 7 + [True]
    assert parts[-1].eval_count == 7


@BOTH
def test_it_generates(client: Client, model: str) -> None:
    prompt = {"model": model, "prompt": "capital of France", "system": "Be brief.", "think": False}
    assert client.generate(**prompt).response == PARIS
    parts = list(client.generate(**prompt, stream=True))
    assert "".join(part.response or "" for part in parts) == PARIS
    assert parts[-1].done_reason == "stop"


@pytest.mark.parametrize(
    "name",
    ["role:persona", "role:persona:latest", "default.persona", "default.persona:latest", MODEL],
)
def test_roles_and_registry_ids_are_models_with_or_without_latest(
    client: Client, name: str
) -> None:
    for spelling in (name, f"{name}:latest"):
        if spelling.count(":latest") < 2:
            assert client.chat(model=spelling, messages=FRANCE).message.content == PARIS


def test_options_arrive_by_each_engines_names(client: Client, site: Site, ollama: Any) -> None:
    options = {"temperature": 0, "num_predict": 3, "repeat_penalty": 1.1, "stop": ["x"], "seed": 7}
    for model in (MODEL, OLLAMA_MODEL):
        answer = client.chat(model=model, messages=FRANCE, options=options, think=False)
        assert (answer.message.content, answer.done_reason) == ("The capital of", "length")
    sent = site.engine.state()["last"]
    assert (sent["temperature"], sent["max_tokens"], sent["repetition_penalty"]) == (0, 3, 1.1)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert not {"think", "num_ctx", "keep_alive"} & set(sent)
    assert ollama.state()["last"]["options"] == options
    assert ollama.state()["last"]["think"] is False


def test_thinking_is_a_field_of_its_own(client: Client, site: Site) -> None:
    answer = client.chat(model=OLLAMA_MODEL, messages=FRANCE, think=True)
    assert (answer.message.thinking, answer.message.content) == ("Let me", PARIS)
    site.engine.behave("reasoning")
    parts = list(client.chat(model=MODEL, messages=FRANCE, think="high", stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == "Let me think."
    assert site.engine.state()["last"]["reasoning_effort"] == "high"


def test_tools_are_called_whole_and_their_results_go_back(
    client: Client, site: Site, ollama: FakeOllamaServer
) -> None:
    ollama.habits("tool")
    site.engine.behave("tool")
    for model in (OLLAMA_MODEL, MODEL):
        for stream in (False, True):
            answer: Any = client.chat(
                model=model, messages=FRANCE, tools=[WEATHER], stream=stream, think=False
            )
            parts = list(answer) if stream else [answer]
            calls = [call for part in parts for call in part.message.tool_calls or ()]
            assert [(c.function.name, c.function.arguments) for c in calls] == [
                ("weather", {"city": "Paris"})
            ]
            assert parts[-1].done_reason == "stop"
    site.engine.behave()
    called = {"role": "assistant", "content": "", "tool_calls": calls}
    result = {"role": "tool", "content": "sunny", "tool_name": "weather"}
    for model in (OLLAMA_MODEL, MODEL):
        answer = client.chat(
            model=model, messages=[*FRANCE, called, result], tools=[WEATHER], think=False
        )
        assert answer.message.content == PARIS
    sent = ollama.state()["last"]["messages"]
    assert (sent[-1]["tool_name"], sent[-1]["content"]) == ("weather", "sunny")
    said = site.engine.state()["last"]["messages"]
    assert said[-1]["tool_call_id"] == said[-2]["tool_calls"][0]["id"]


def test_formats_and_images_arrive(client: Client, site: Site, ollama: FakeOllamaServer) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    answer = client.chat(model=OLLAMA_MODEL, messages=FRANCE, format=schema, think=False)
    assert json.loads(answer.message.content or "") == {"answer": "fake"}
    assert ollama.state()["last"]["format"] == schema
    client.chat(model=MODEL, messages=FRANCE, format=schema)
    sent = site.engine.state()["last"]["response_format"]
    assert sent["json_schema"]["schema"] == schema
    seen = [{"role": "user", "content": "capital of France?", "images": [PNG]}]
    assert client.chat(model=OLLAMA_MODEL, messages=seen, think=False).message.content == PARIS
    assert ollama.state()["last"]["messages"][0]["images"] == [PNG]
    site.engine.behave("vision")
    client.chat(model=MODEL, messages=seen)
    parts = site.engine.state()["last"]["messages"][0]["content"]
    assert parts[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"


def test_log_probabilities_are_passed_on(client: Client) -> None:
    answer = client.chat(
        model=OLLAMA_MODEL, messages=FRANCE, logprobs=True, top_logprobs=2, think=False
    )
    assert answer.logprobs
    assert (answer.logprobs[0].token, answer.logprobs[0].logprob) == ("The", -0.5)
    assert len(answer.logprobs[0].top_logprobs or ()) == 2
    assert len(answer.logprobs) == 7


def test_it_embeds(client: Client, ollama: FakeOllamaServer) -> None:
    one = client.embed(model=OLLAMA_MODEL, input="a")
    many = client.embed(model=OLLAMA_MODEL, input=["a", "b"])
    assert list(many.embeddings[0]) == list(one.embeddings[0])
    assert len(many.embeddings) == 2
    assert many.prompt_eval_count == 2
    assert len(client.embeddings(model=OLLAMA_MODEL, prompt="a").embedding) == 8
    assert client.embed(model=OLLAMA_MODEL, input=[]).embeddings == []


def test_it_lists_shows_and_says_what_runs(client: Client) -> None:
    names = [model.model for model in client.list().models]
    assert {MODEL, OLLAMA_MODEL, "default.persona", "role:persona", LONG} <= set(names)
    shown = client.show(OLLAMA_MODEL)
    assert shown.capabilities == ["completion", "tools", "vision", "embedding"]
    assert client.show("role:persona:latest").capabilities
    assert {model.model for model in client.ps().models} == {MODEL, OLLAMA_MODEL}


def test_a_load_is_answered_and_an_unload_is_not_a_clients_business(client: Client) -> None:
    assert client.generate(model=OLLAMA_MODEL).done_reason == "load"
    assert client.chat(model=MODEL, messages=[]).done_reason == "load"
    with pytest.raises(ResponseError, match="mh backend stop") as caught:
        client.generate(model=OLLAMA_MODEL, keep_alive=0)
    assert caught.value.status_code == 400


def test_errors_are_its_own_typed_ones(client: Client, site: Site) -> None:
    with pytest.raises(ResponseError, match="There is no model 'gpt-9'") as unknown:
        client.chat(model="gpt-9", messages=FRANCE)
    assert unknown.value.status_code == 404
    with pytest.raises(ResponseError, match=r"(?i)token") as stranger:
        Client(host=f"{site.url}/ollama", trust_env=False).chat(model=MODEL, messages=FRANCE)
    assert stranger.value.status_code == 401
    with client_of(site, "guest") as guest, pytest.raises(ResponseError) as refused:
        guest.list()
    assert refused.value.status_code == 403
    with pytest.raises(ResponseError, match="mh ollama pull") as pull:
        client.pull("qwen3")
    assert pull.value.status_code == 400
    for ask in (client.delete, client.push):
        with pytest.raises(ResponseError):
            ask("qwen3")
    with pytest.raises(ResponseError, match="mh model add"):
        client.copy("a", "b")
    with pytest.raises(ResponseError, match="temperature"):
        client.chat(model=MODEL, messages=FRANCE, options={"temperature": "hot"})


@pytest.mark.fault(33)
def test_a_prompt_that_is_too_long_says_the_limit_and_the_count(client: Client) -> None:
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(ResponseError, match=r"has 500\d tokens; the model takes 4096") as caught:
        client.chat(model=OLLAMA_MODEL, messages=long, think=False)
    assert caught.value.status_code == 400


@pytest.mark.fault(26)
@pytest.mark.parametrize("model", [MODEL, OLLAMA_MODEL])
def test_an_answer_that_breaks_off_is_an_error(
    client: Client, site: Site, ollama: FakeOllamaServer, model: str
) -> None:
    site.engine.behave("cut-after=3")
    ollama.habits("crash-after=3")
    with pytest.raises(ResponseError, match=r"(?i)try again"):
        list(client.chat(model=model, messages=FRANCE, stream=True, think=False))
    with pytest.raises(ResponseError, match=r"(?i)try again") as caught:
        client.chat(model=model, messages=FRANCE, think=False)
    assert caught.value.status_code == 502


@pytest.mark.fault(24)
def test_a_client_that_leaves_stops_the_generation(
    client: Client, ollama: FakeOllamaServer
) -> None:
    before = ollama.state()["aborted"]
    ollama.habits("token=0.05", "tokens=2000")
    with closing(
        client.chat(model=OLLAMA_MODEL, messages=[{"role": "user", "content": "go"}], stream=True)
    ) as parts:  # type: ignore[type-var]
        next(iter(parts))
    ollama.await_abort(before)


@pytest.mark.fault(30)
def test_a_context_only_entries_set_so_that_clients_do_not_reload_the_model(
    client: Client, site: Site, ollama: FakeOllamaServer
) -> None:
    client.chat(model=LONG, messages=FRANCE, think=False)
    loads = ollama.state()["loads"]
    for size in (512, 1024, 8192):
        options = {"num_ctx": size}
        client.chat(model=LONG, messages=FRANCE, options=options, keep_alive=0, think=False)
        messages = {"messages": FRANCE, "options": {"num_ctx": size, "keep_alive": 0}}
        assert post(site, "/api/chat", {"model": LONG, **messages}).status_code == 200
        for path, said in (
            ("/v1/chat/completions", {"messages": FRANCE}),
            ("/v1/completions", {"prompt": "capital of France"}),
        ):
            asked = {"model": LONG, **said, "num_ctx": size, "keep_alive": 0}
            assert post(site, path, asked).status_code == 200
            sent = ollama.state()["last"]
            assert (sent["options"]["num_ctx"], sent["keep_alive"]) == (CONTEXT, "10m")
    assert ollama.state()["loads"] == loads
