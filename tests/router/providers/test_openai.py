import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from accounts.errors import InvalidRequest, MhError, TooMany, Unavailable
from backends.engines.base import Target
from router.errors import EngineStopped, ProviderRefused
from router.providers.openai import OpenAI, OpenAISettings
from router.providers.openai_compatible import CHAT_PATH
from router.providers.retry_after import wait_asked
from tests.backends.faults.table import fault
from tests.fakes.cloud import serving
from tests.fakes.fake_openai import FakeOpenAI
from tests.router.providers.cloud import (
    KEY,
    TEXT,
    call,
    deltas,
    failure,
    finished,
    target,
    text,
)

openai = OpenAI()


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    cloud = FakeOpenAI(key=KEY)
    async with serving(cloud) as cloud.url:  # type: ignore[attr-defined]
        yield cloud


def at(fake: FakeOpenAI, **settings: Any) -> Target:
    return target(openai, {"baseUrl": f"{fake.url}/v1", **settings})  # type: ignore[attr-defined]


@pytest.mark.parametrize("habit", ["", "comments", "split"])
async def test_a_chat_is_read_with_usage(fake: FakeOpenAI, habit: str) -> None:
    fake.behave(habit)
    found = await deltas(openai, at(fake))
    assert text(found) == TEXT
    assert finished(found).usage == {
        "prompt_tokens": 9,
        "completion_tokens": 8,
        "total_tokens": 17,
    }


@fault(32)
@pytest.mark.parametrize(("kind", "thought"), [("deepseek", "Hmm."), ("openrouter", "Hmm.")])
async def test_reasoning_of_each_shape_is_kept_apart(
    fake: FakeOpenAI, kind: str, thought: str
) -> None:
    fake.behave(f"reasoning={kind}")
    found = await deltas(openai, at(fake))
    assert (text(found, "reasoning"), text(found)) == (thought, TEXT)


async def test_tool_calls_come_piece_by_piece(fake: FakeOpenAI) -> None:
    fake.behave("tool")
    found = await deltas(openai, at(fake))
    calls = [d["tool_call"] for d in found if isinstance(d, dict) and d["type"] == "tool_call"]
    assert "".join(piece["arguments"] for piece in calls) == '{"city": "Paris"}'
    assert finished(found).reason == "tool_calls"


async def test_empty_lines_before_an_answer_are_read_over(fake: FakeOpenAI) -> None:
    fake.behave("empty-lines")
    answer = await openai.ask(at(fake), CHAT_PATH, b'{"model": "m"}', "r")
    assert json.loads(answer)["choices"]


@pytest.mark.parametrize(
    ("habit", "kind", "code", "retryable"),
    [
        ("insufficient-quota", ProviderRefused, "provider_credits_used_up", False),
        ("rate-limited", TooMany, "too_many_requests", True),
        ("overloaded", Unavailable, "engine_unavailable", True),
        ("status=401", ProviderRefused, "upstream_refused_key", False),
        ("status=403", ProviderRefused, "upstream_refused_key", False),
        ("status=402", ProviderRefused, "provider_credits_used_up", False),
        ("status=400", InvalidRequest, "refused_by_engine", False),
        ("no-max-tokens", InvalidRequest, "unsupported_parameter", False),
        ("error-under-200", TooMany, "too_many_requests", True),
        ("error-after=2", EngineStopped, "engine_stopped", True),
        ("end-after=2", EngineStopped, "engine_stopped", True),
        ("no-done", EngineStopped, "engine_stopped", True),
    ],
)
async def test_each_failure_has_its_error(
    fake: FakeOpenAI, habit: str, kind: type, code: str, retryable: bool
) -> None:
    fake.behave(habit)
    error = await failure(openai, at(fake), call(options={"max_tokens": 5}))
    assert (type(error), error.code, error.retryable) == (kind, code, retryable)
    assert "backend" not in error.message, "it is an account, not an engine of ours"


@fault(25)
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("429", TooMany),
        ("rate_limit_exceeded", TooMany),
        ("insufficient_quota", ProviderRefused),
        ("server_is_overloaded", Unavailable),
        ("402", ProviderRefused),
        ("502", EngineStopped),
    ],
)
async def test_an_error_in_a_stream_keeps_its_kind(fake: FakeOpenAI, code: str, kind: type) -> None:
    fake.behave("error-after=2", f"error-code={code}")
    assert type(await failure(openai, at(fake))) is kind


@pytest.mark.parametrize(("habit", "seconds"), [("rate-limited", 7), ("reset-only", 61)])
async def test_the_wait_that_is_asked_for_is_passed_on(
    fake: FakeOpenAI, habit: str, seconds: int
) -> None:
    fake.behave(habit)
    assert (await failure(openai, at(fake))).retry_after == seconds


@fault(24)
async def test_a_client_that_leaves_closes_the_connection(fake: FakeOpenAI) -> None:
    fake.behave("silent")
    task = asyncio.create_task(deltas(openai, at(fake)))
    await fake.until(lambda: fake.running)
    task.cancel()
    await fake.until(lambda: fake.aborted)


@pytest.mark.parametrize("habit", ["error-under-200", "no-done", "error-after=1"])
async def test_what_passes_through_ends_in_an_error_as_well(fake: FakeOpenAI, habit: str) -> None:
    fake.behave(habit)
    body = b'{"model": "m", "stream": true}'
    with pytest.raises(MhError):
        await relayed(at(fake), body)


async def relayed(to: Target, body: bytes) -> bytes:
    async with openai.relay(to, CHAT_PATH, body, "r") as frames:
        return b"".join([frame async for frame in frames])


# -- the limit's name


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "max_completion_tokens"),
        ({"baseUrl": "https://mine.openai.azure.com/openai/v1"}, "max_completion_tokens"),
        ({"baseUrl": "https://openrouter.ai/api/v1"}, "max_tokens"),
        ({"baseUrl": "https://notopenai.com/v1"}, "max_tokens"),
        ({"maxTokensField": "max_tokens"}, "max_tokens"),
        (
            {"baseUrl": "http://127.0.0.1:1234/v1", "maxTokensField": "max_completion_tokens"},
            "max_completion_tokens",
        ),
    ],
)
def test_the_limit_has_the_name_that_the_api_takes(settings: dict[str, str], name: str) -> None:
    payload = openai.payload(target(openai, settings), call(options={"max_tokens": 5}))
    limits = {key: value for key, value in payload.items() if key.startswith("max_")}
    assert limits == {name: 5}


def test_openai_itself_is_sent_nothing_it_refuses() -> None:
    options = {"temperature": 0, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    own = openai.payload(target(openai, {}), call(options=options))
    assert own["temperature"] == 0
    assert not {"top_k", "min_p", "repetition_penalty"} & own.keys()
    other = target(openai, {"baseUrl": "https://openrouter.ai/api/v1"})
    assert options.items() <= openai.payload(other, call(options=options)).items()


async def test_a_reasoning_model_that_refuses_max_tokens_answers(fake: FakeOpenAI) -> None:
    fake.behave("no-max-tokens")
    to = at(fake, maxTokensField="max_completion_tokens")
    assert text(await deltas(openai, to, call(options={"max_tokens": 5}))) == TEXT


@pytest.mark.parametrize("own", [True, False])
async def test_a_request_that_passes_through_changes_only_where_it_has_to(
    fake: FakeOpenAI, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAISettings, "is_openais", own)
    asked = {"model": "m", "max_tokens": 5, "top_k": 3, "messages": []}
    await openai.ask(at(fake), CHAT_PATH, json.dumps(asked).encode(), "r")
    changed = {"model": "m", "max_completion_tokens": 5, "messages": []}
    assert fake.requests[-1]["body"] == (changed if own else asked)


# -- check


async def test_a_check_asks_for_the_models_only(fake: FakeOpenAI) -> None:
    assert await openai.check(at(fake)) == "The key works; 2 models are offered."
    assert await openai.models(at(fake)) == ["gpt-fake", "o-fake"]
    with pytest.raises(ProviderRefused):
        await openai.check(at(fake, apiKey="wrong"))
    fake.behave("no-models")
    assert "could not be tried" in await openai.check(at(fake))
    assert await openai.models(at(fake)) == ()
    assert {request["method"] for request in fake.requests} == {"GET"}


async def test_a_check_of_nothing_says_so() -> None:
    with pytest.raises(MhError) as caught:
        await openai.check(target(openai, {"baseUrl": "http://127.0.0.1:9/v1"}))
    assert caught.value.code == "engine_unreachable"


def test_a_key_is_in_no_text() -> None:
    settings = OpenAISettings.model_validate({"apiKey": KEY})
    assert KEY not in f"{settings!r} {settings.model_dump_json()} {openai.target(settings)!r}"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, ""),
        ({"retry-after": "7"}, "7"),
        ({"retry-after": "0.2"}, "1"),
        ({"retry-after": "tomorrow"}, ""),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, "0"),
        ({"retry-after-ms": "1500", "retry-after": "9"}, "2"),
        ({"ratelimit": '"api";r=0;t=55'}, "55"),
        ({"ratelimit": '"api";r=3;t=55'}, ""),
        (
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"},
            "360",
        ),
        ({"x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "6m0s"}, ""),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, "1"),
    ],
)
def test_the_wait_is_read_from_any_header(headers: dict[str, str], wait: str) -> None:
    assert wait_asked(headers) == wait
