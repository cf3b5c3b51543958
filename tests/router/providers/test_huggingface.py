import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from accounts.errors import InvalidRequest, TooMany, Unavailable, UpstreamFailed
from backends.engines.base import Target
from router.errors import (
    ContextTooLong,
    EngineStopped,
    InvalidProvider,
    NotSupported,
    ProviderRefused,
    UnknownRoute,
)
from router.providers.base import Finished, Waits
from router.providers.huggingface import HuggingFace, provider
from router.providers.huggingface.settings import HuggingFaceSettings
from router.providers.huggingface.tgi import TgiReader, generate_payload, inputs_of
from router.providers.openai_compatible import CHAT_PATH
from tests.backends.faults.table import fault
from tests.fakes.cloud import serving
from tests.fakes.fake_huggingface import FakeHuggingFace
from tests.router.providers.cloud import (
    KEY,
    TEXT,
    call,
    deltas,
    failure,
    finished,
    target,
    text,
    waits,
)

huggingface = HuggingFace()
USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
BODY = json.dumps({"model": "tgi", "messages": [], "stream": True}).encode()
STARTING = Waits("the endpoint at Hugging Face is starting")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "PAUSE_MIN", 0.01)
    monkeypatch.setattr(provider, "PAUSE_MAX", 0.02)


@pytest.fixture
async def fake() -> AsyncIterator[FakeHuggingFace]:
    cloud = FakeHuggingFace(key=KEY)
    async with serving(cloud) as cloud.url:  # type: ignore[attr-defined]
        yield cloud


def endpoint(fake: FakeHuggingFace, **settings: Any) -> Target:
    url = fake.url  # type: ignore[attr-defined]
    return target(
        huggingface, {"endpointUrl": f"{url}/endpoint", "hubUrl": f"{url}/hub", **settings}
    )


def router(fake: FakeHuggingFace, **settings: Any) -> Target:
    url = fake.url  # type: ignore[attr-defined]
    return target(
        huggingface, {"routerUrl": f"{url}/router/v1", "hubUrl": f"{url}/hub", **settings}
    )


# -- answers


@pytest.mark.parametrize(
    ("api", "habit"),
    [
        *((api, habit) for api in ("auto", "openai", "tgi") for habit in ("", "split", "tight")),
        ("auto", "container=no-template"),
        ("tgi", "container=no-template"),
    ],
)
async def test_an_endpoint_answers_by_either_api(
    fake: FakeHuggingFace, api: str, habit: str
) -> None:
    fake.behave(habit)
    found = await deltas(huggingface, endpoint(fake, api=api))
    assert text(found) == TEXT
    assert finished(found) == Finished("stop", USAGE)  # type: ignore[arg-type]
    classic = api == "tgi" or habit == "container=no-template"
    assert bool(fake.asked("/endpoint/")) == classic


async def test_auto_uses_the_classic_api_where_there_is_no_chat(fake: FakeHuggingFace) -> None:
    fake.behave("container=classic")
    assert text(await deltas(huggingface, endpoint(fake))) == TEXT
    error = await failure(huggingface, endpoint(fake, api="openai"))
    assert (error.status, error.code) == (404, "path_not_found")


async def test_a_vllm_container_without_the_model_is_not_asked_for_another_api(
    fake: FakeHuggingFace,
) -> None:
    fake.behave("container=vllm")
    error = await failure(huggingface, endpoint(fake), call(model="other"))
    assert error.code == "model_not_found"
    assert not fake.asked("/endpoint/")
    assert text(await deltas(huggingface, endpoint(fake), call(model="org/served"))) == TEXT


async def test_the_router_is_asked_where_there_is_no_endpoint(fake: FakeHuggingFace) -> None:
    to = router(fake, billTo="my-org")
    assert text(await deltas(huggingface, to, call(model="org/one:cheapest"))) == TEXT
    sent = fake.requests[-1]
    assert sent["path"] == "/router/v1/chat/completions"
    assert sent["body"]["model"] == "org/one:cheapest"
    assert sent["headers"]["x-hf-bill-to"] == "my-org"
    assert "x-scale-up-timeout" not in sent["headers"]


async def test_openais_api_passes_through(fake: FakeHuggingFace) -> None:
    for to in (endpoint(fake), router(fake)):
        async with huggingface.relay(to, CHAT_PATH, BODY, "r") as frames:
            assert b"".join([frame async for frame in frames]).endswith(b"data: [DONE]\n\n")
        assert json.loads(await huggingface.ask(to, CHAT_PATH, b"{}", "r"))["choices"]
    assert await huggingface.ask(endpoint(fake), CHAT_PATH, b'{"model":"","messages":[]}', "r")
    assert fake.requests[-1]["body"]["model"] == "tgi"
    assert huggingface.capabilities_of(router(fake)).openai_paths == {CHAT_PATH}
    assert not huggingface.capabilities_of(endpoint(fake, api="tgi")).openai_paths


async def test_an_answer_at_once_is_read_where_a_stream_was_asked_for(
    fake: FakeHuggingFace,
) -> None:
    fake.behave("unstreamed", "length")
    found = await deltas(huggingface, endpoint(fake, api="tgi"))
    assert text(found) == TEXT
    assert finished(found).reason == "length"


@fault(24)
@pytest.mark.parametrize("api", ["openai", "tgi"])
async def test_a_client_that_leaves_is_seen_by_the_endpoint(
    fake: FakeHuggingFace, api: str
) -> None:
    fake.behave("silent")
    task = asyncio.create_task(deltas(huggingface, endpoint(fake, api=api)))
    await fake.until(lambda: fake.running)
    task.cancel()
    await fake.until(lambda: fake.aborted)


# -- an endpoint that loads


@pytest.mark.parametrize("habit", ["loading=3", "loading=1"])
@pytest.mark.parametrize("gateway", ["", "bad-gateway"])
@pytest.mark.parametrize("api", ["auto", "tgi"])
async def test_an_endpoint_that_loads_is_waited_for_and_runs_once(
    fake: FakeHuggingFace, habit: str, gateway: str, api: str
) -> None:
    fake.behave(habit, gateway)
    found = await deltas(huggingface, endpoint(fake, api=api))
    assert found[0] == STARTING
    assert set(waits(found)) == {STARTING}
    assert text(found) == TEXT
    assert fake.generated == 1


async def test_the_proxy_is_asked_to_hold_the_second_try(fake: FakeHuggingFace) -> None:
    fake.behave("loading", "holds")
    assert text(await deltas(huggingface, endpoint(fake, scaleUpTimeout=20))) == TEXT
    held = [sent["headers"].get("x-scale-up-timeout") for sent in fake.requests]
    assert held[0] is None
    assert 1 <= int(held[1]) <= 20
    assert len(held) == 2


async def test_the_wait_is_bounded(fake: FakeHuggingFace) -> None:
    fake.behave("loading")
    error = await failure(huggingface, endpoint(fake, scaleUpTimeout=1))
    assert (type(error), error.code, error.retryable) == (Unavailable, "engine_loading", True)
    assert "1 s" in error.message


async def test_without_patience_a_loading_endpoint_is_refused_at_once(
    fake: FakeHuggingFace,
) -> None:
    fake.behave("loading")
    assert (await failure(huggingface, endpoint(fake, scaleUpTimeout=0))).status == 503
    assert len(fake.requests) == 1


async def test_what_passes_through_waits_as_well(fake: FakeHuggingFace) -> None:
    fake.behave("loading=2")
    assert await huggingface.ask(endpoint(fake), CHAT_PATH, b"{}", "r")
    fake.behave("loading=2")
    async with huggingface.relay(endpoint(fake), CHAT_PATH, BODY, "r") as frames:
        assert [frame async for frame in frames]
    assert fake.generated == 2


@fault(24)
async def test_a_client_that_leaves_while_the_endpoint_loads_asks_no_more(
    fake: FakeHuggingFace,
) -> None:
    fake.behave("loading")
    async with huggingface.chat(endpoint(fake), call()) as found:
        assert await anext(found) == STARTING
    seen = len(fake.requests)
    await asyncio.sleep(0.1)
    assert len(fake.requests) == seen


# -- refusals


async def test_a_paused_endpoint_is_the_owners_to_resume(fake: FakeHuggingFace) -> None:
    fake.behave("paused")
    error = await failure(huggingface, endpoint(fake))
    assert (type(error), error.code) == (ProviderRefused, "endpoint_paused")
    assert not error.retryable


async def test_used_up_credits_are_not_tried_again(fake: FakeHuggingFace) -> None:
    fake.behave("credits")
    error = await failure(huggingface, router(fake), call(model="org/one"))
    assert (error.code, error.retryable) == ("provider_credits_used_up", False)


async def test_an_unserved_model_is_named(fake: FakeHuggingFace) -> None:
    fake.behave("unserved")
    error = await failure(huggingface, router(fake), call(model="org/x"))
    assert (error.status, error.code) == (404, UnknownRoute.code)


async def test_the_wait_of_a_rate_limit_is_passed_on(fake: FakeHuggingFace) -> None:
    fake.behave("rate-limited")
    error = await failure(huggingface, router(fake), call(model="org/one"))
    assert (type(error), error.retry_after, error.retryable) == (TooMany, 55, True)


async def test_a_wrong_token_is_the_owners_to_mend(fake: FakeHuggingFace) -> None:
    for to in (endpoint(fake, apiKey="hf_wrong"), router(fake, apiKey="hf_wrong")):
        error = await failure(huggingface, to)
        assert (type(error), error.retryable) == (ProviderRefused, False)


@pytest.mark.parametrize("api", ["openai", "tgi"])
@pytest.mark.parametrize(
    ("kind", "ours", "retryable"),
    [
        ("validation", ContextTooLong, False),
        ("generation", UpstreamFailed, True),
        ("overloaded", TooMany, True),
        ("incomplete_generation", EngineStopped, True),
        ("healthcheck", Unavailable, True),
    ],
)
async def test_each_error_of_tgis_has_its_kind(
    fake: FakeHuggingFace, api: str, kind: str, ours: type, retryable: bool
) -> None:
    fake.behave(f"error={kind}")
    error = await failure(huggingface, endpoint(fake, api=api))
    assert (type(error), error.retryable) == (ours, retryable)


@fault(25)
@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("validation", ContextTooLong),
        ("generation", EngineStopped),
        ("overloaded", TooMany),
        ("incomplete_generation", EngineStopped),
    ],
)
async def test_an_error_as_a_frame_under_200_ends_a_classic_stream(
    fake: FakeHuggingFace, kind: str, ours: type
) -> None:
    fake.behave(f"frame-error={kind}")
    assert type(await failure(huggingface, endpoint(fake, api="tgi"))) is ours


async def test_an_error_frame_of_tgis_chat_says_422_whatever_it_is(fake: FakeHuggingFace) -> None:
    fake.behave("frame-error=generation")
    assert isinstance(await failure(huggingface, endpoint(fake, api="openai")), InvalidRequest)


@fault(26)
@pytest.mark.parametrize("count", [0, 3])
async def test_a_classic_stream_without_its_last_frame_is_not_complete(
    fake: FakeHuggingFace, count: int
) -> None:
    fake.behave(f"end-after={count}")
    assert isinstance(await failure(huggingface, endpoint(fake, api="tgi")), EngineStopped)


async def test_tools_and_images_have_no_place_in_the_classic_api(
    fake: FakeHuggingFace,
) -> None:
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    for asked in (
        call(tools=[{"type": "function"}]),
        call(messages=[{"role": "user", "content": image}]),
    ):
        assert isinstance(
            await failure(huggingface, endpoint(fake, api="tgi"), asked), NotSupported
        )


# -- what is sent, and read


def test_options_are_written_within_tgis_bounds() -> None:
    options = {"temperature": 0, "top_p": 1, "top_k": -1, "seed": -1, "stop": "x", "max_tokens": 5}
    assert generate_payload(call(options=options), 2048)["parameters"] == {
        "max_new_tokens": 5,
        "details": True,
        "return_full_text": False,
        "do_sample": False,
        "seed": 2**64 - 1,
        "stop": ["x"],
    }
    warm = generate_payload(call(options={"temperature": 0.5, "top_p": 0.9, "top_k": 3}), 7)
    expected = {
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
    }
    assert expected.items() <= warm["parameters"].items()


def test_messages_become_one_text() -> None:
    assert inputs_of([{"role": "user", "content": "Hi"}]) == "Hi"
    dialogue = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    assert inputs_of(dialogue) == (
        "System: Be kind.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Who are you?\n\nAssistant:"
    )


def test_what_follows_the_last_frame_is_not_read() -> None:
    reader = TgiReader()
    last = {"token": {"text": "</s>", "special": True}, "generated_text": ""}
    frame = f"data:{json.dumps(last)}\n\n".encode()
    assert reader.feed(frame + frame) == [Finished("stop")]
    assert reader.end() == []


@pytest.mark.parametrize("frame", [b"data: nonsense\n\n", b"data: [1]\n\n"])
def test_a_frame_that_is_none_is_an_error(frame: bytes) -> None:
    with pytest.raises(UpstreamFailed):
        TgiReader().feed(frame)


# -- settings and check


async def test_a_check_generates_nothing(fake: FakeHuggingFace) -> None:
    assert await huggingface.check(endpoint(fake)) == (
        "The token works; it is ada's. The endpoint is ready."
    )
    assert "2 models" in await huggingface.check(router(fake))
    assert await huggingface.models(router(fake)) == ["org/one", "org/two"]
    fake.behave("loading")
    assert "it is starting" in await huggingface.check(endpoint(fake))
    fake.behave("paused")
    with pytest.raises(ProviderRefused):
        await huggingface.check(endpoint(fake))
    for to in (endpoint(fake, apiKey="no"), router(fake, apiKey="no")):
        with pytest.raises(ProviderRefused):
            await huggingface.check(to)
    assert fake.generated == 0


def test_an_address_with_its_version_is_the_same_endpoint() -> None:
    settings = HuggingFaceSettings.model_validate({"endpointUrl": "https://x.example/v1/"})
    to = huggingface.target(settings)
    assert huggingface.url(to, CHAT_PATH) == "https://x.example/v1/chat/completions"


def test_neither_token_nor_endpoint_is_not_enough() -> None:
    with pytest.raises(InvalidProvider):
        huggingface.target(HuggingFaceSettings())
