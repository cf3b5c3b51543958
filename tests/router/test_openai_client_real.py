"""The official ``openai`` client against a site in front of real vLLM."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from backends.engines.base import Target
from backends.engines.vllm import places
from backends.ports import free_port
from tests.backends.engines.vllm.test_vllm_real import ENGINE, end, wait_until_ready
from tests.router.live import Site, live_site, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

MODEL = places.DEMO_MODEL
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
STORY: Any = [{"role": "user", "content": "Tell a very long story about a king and his dragon."}]
LONG: Any = [{"role": "user", "content": "word " * 9000}]


class City(BaseModel):
    city: str
    people: int


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ENGINE.install(lambda fraction, message: None)
    folder = tmp_path_factory.mktemp("vllm")
    launch = ENGINE.launch(ENGINE.Options(model=MODEL, port=free_port()))
    log: Path = folder / "engine.log"
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TMPDIR": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.argv,
            env=env | launch.env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        target = Target(endpoint=launch.endpoint, served_model=launch.served_model)
        wait_until_ready(process, target, log, launch)
        yield launch.endpoint
    finally:
        end(process)


@pytest.fixture(scope="module")
def site(endpoint: str) -> Iterator[Site]:
    with live_site(MH_FIRST_TOKEN_SECONDS="120") as site:
        site.manage(f"from tests.router import seed; seed.backend({endpoint!r}, {MODEL!r})")
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[OpenAI]:
    token = site.tokens["standard"]
    with OpenAI(base_url=f"{site.url}/v1", api_key=token, max_retries=0, timeout=120) as client:
        yield client


def await_running(endpoint: str, count: int, seconds: float) -> None:
    """Fail unless the engine works on ``count`` requests, as it says itself, within ``seconds``."""

    def is_so() -> bool:
        lines = httpx.get(f"{endpoint}/metrics", trust_env=False).text.splitlines()
        values = [line for line in lines if line.startswith("vllm:num_requests_running{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in values) == count

    wait_until(is_so, seconds=seconds, what=f"{count} running")


def test_it_lists_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert MODEL in names
    assert "role:persona" in names


def test_it_chats_streamed_and_not(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0)
    assert answer.choices[0].message.content == PARIS
    assert (answer.usage or pytest.fail("no usage")).completion_tokens > 5
    stream = client.chat.completions.create(
        model=MODEL,
        messages=FRANCE,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == PARIS
    assert chunks[-1].usage is not None


def test_several_answers_and_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=FRANCE,
        n=2,
        logprobs=True,
        top_logprobs=2,
        max_tokens=4,
        temperature=1,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    entries = answer.choices[1].logprobs.content or []  # type: ignore[union-attr]
    assert len(entries) == 4
    assert len(entries[0].top_logprobs) >= 2


def test_it_completes_a_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=5, temperature=0
    )
    assert "Paris" in answer.choices[0].text


def test_a_json_schema_is_followed(client: OpenAI, site: Site) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=FRANCE, response_format=City, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, City)
    body = {"model": MODEL, "messages": FRANCE, "format": City.model_json_schema()}
    ours = httpx.post(
        f"{site.url}/api/chat",
        json={**body, "options": {"temperature": 0, "maxTokens": 200}},
        headers=site.auth,
        timeout=120,
        trust_env=False,
    )
    City.model_validate(json.loads(ours.json()["content"]))


def test_responses_streamed_and_not(client: OpenAI) -> None:
    question = FRANCE[0]["content"]
    whole = client.responses.create(model=MODEL, input=question, temperature=0)
    with client.responses.stream(model=MODEL, input=question, temperature=0) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert whole.output_text == streamed.output_text == PARIS
    assert kinds[-1] == "response.completed"


def test_a_prompt_that_is_too_long_is_refused_with_limit_and_count(
    client: OpenAI, site: Site
) -> None:
    with pytest.raises(openai.BadRequestError, match=r"takes \d+ in all") as refused:
        client.chat.completions.create(model=MODEL, messages=LONG)
    assert refused.value.code == "context_length_exceeded"
    ours = httpx.post(
        f"{site.url}/api/chat",
        json={"model": MODEL, "messages": LONG},
        headers=site.auth,
        timeout=60,
        trust_env=False,
    )
    assert ours.status_code == 400
    message = ours.json()["error"]["message"]
    # It stops counting at its limit; asked for the whole, it says it.
    assert re.search(r"The prompt has 90\d\d tokens", message)
    assert "in all" in message


def test_old_turns_are_left_out_where_the_role_says_so(site: Site) -> None:
    site.manage(
        "from router.models import Role;"
        "Role.objects.update_or_create(name='summarizer', defaults={'context': 'trim'})"
    )
    talk = [*LONG, {"role": "assistant", "content": "Yes."}, *FRANCE]
    answer = httpx.post(
        f"{site.url}/api/chat",
        json={"role": "summarizer", "messages": talk, "options": {"temperature": 0}},
        headers=site.auth,
        timeout=120,
        trust_env=False,
    ).json()
    assert (answer["content"], answer["trimmed"]) == (PARIS, 2)


def test_a_chat_model_makes_no_embeddings_and_sees_no_images(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as none:
        client.embeddings.create(model=MODEL, input="hello")
    assert none.value.code == "not_supported"
    url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image: Any = {"type": "image_url", "image_url": {"url": url}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": [image]}])


def test_closing_a_stream_stops_the_engine(client: OpenAI, endpoint: str) -> None:
    more: Any = {"model": MODEL, "stream": True}
    for ask in (
        lambda: client.chat.completions.create(
            messages=STORY, extra_body={"ignore_eos": True}, **more
        ),
        lambda: client.responses.create(input=STORY[0]["content"], **more),
    ):
        stream: Any = ask()
        next(stream)
        await_running(endpoint, 1, seconds=5)
        begin = time.monotonic()
        stream.close()
        await_running(endpoint, 0, seconds=5)
        print(f"aborted after {time.monotonic() - begin:.2f} s")
