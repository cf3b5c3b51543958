import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from accounts.errors import InvalidRequest, TooMany
from backends.engines.base import Target
from router.errors import (
    ContextTooLong,
    EngineStopped,
    InvalidProvider,
    JobFailed,
    JobTimedOut,
    NotSupported,
    ProviderRefused,
)
from router.providers.base import Waits
from router.providers.openai_compatible import CHAT_PATH
from router.providers.runpod import RunPod, job
from router.providers.runpod.settings import RunPodSettings
from tests.backends.faults.table import fault
from tests.fakes.cloud import WORDS, serving
from tests.fakes.fake_runpod import FAILURE, FakeRunPod
from tests.router.providers.cloud import (
    KEY,
    TEXT,
    call,
    deltas,
    failure,
    finished,
    first_piece,
    target,
    text,
    waits,
)

runpod = RunPod()
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.fixture
async def fake() -> AsyncIterator[FakeRunPod]:
    cloud = FakeRunPod(key=KEY)
    async with serving(cloud) as cloud.url:  # type: ignore[attr-defined]
        yield cloud


def at(fake: FakeRunPod, **settings: Any) -> Target:
    url = fake.url  # type: ignore[attr-defined]
    usual = {
        "apiUrl": f"{url}/v2",
        "loadBalancingUrl": f"{url}/lb/{{endpoint}}",
        "endpointId": "demo",
        "mode": "queue",
        "pollMin": 0.01,
        "pollMax": 0.02,
    }
    return target(runpod, {**usual, **settings})


async def until_status(fake: FakeRunPod, status: str) -> None:
    await fake.until(lambda: fake.count(status))


# -- answers


@pytest.mark.parametrize("worker", ["worker=old", "worker=new", "worker=public"])
@pytest.mark.parametrize("how", ["slow", "fast", "unstreamed", "bare-array"])
async def test_a_job_of_either_worker_generation_is_read_however_it_is_given(
    fake: FakeRunPod, worker: str, how: str
) -> None:
    fake.behave(worker, how)
    found = await deltas(runpod, at(fake))
    assert text(found) == TEXT
    end = finished(found)
    assert end.reason == "stop"
    assert end.usage == {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
    assert [job.runs for job in fake.jobs.values()] == [1]
    assert not fake.asked("/cancel/job1-u1")


@fault(25)
@pytest.mark.parametrize("size", [1, 3, 7, 64])
async def test_raw_frames_cut_anywhere_even_inside_characters_are_whole_again(
    fake: FakeRunPod, size: int
) -> None:
    fake.behave("worker=new", f"cut={size}")
    assert text(await deltas(runpod, at(fake))) == TEXT


async def test_a_batch_is_given_as_soon_as_it_is_there(fake: FakeRunPod) -> None:
    fake.behave("endless")
    async with runpod.chat(at(fake), call()) as found:
        assert await first_piece(found) == {"type": "token", "content": WORDS[0]}
        assert fake.jobs["job1-u1"].status == "IN_PROGRESS"


async def test_what_a_job_is_sent(fake: FakeRunPod) -> None:
    options = {"temperature": 0, "top_k": 5, "max_tokens": 8}
    await deltas(runpod, at(fake, executionTimeout=60, ttl=120), call(model="m", options=options))
    sent = fake.asked("/run")[0]["body"]
    assert sent == {
        "input": {
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "sampling_params": {"temperature": 0, "top_k": 5, "max_tokens": 8},
            "stream": True,
        },
        "policy": {"executionTimeout": 60_000, "ttl": 120_000},
    }


async def test_an_answer_as_long_as_was_allowed_ended_for_its_length(fake: FakeRunPod) -> None:
    found = await deltas(runpod, at(fake), call(options={"max_tokens": len(WORDS)}))
    assert finished(found).reason == "length"


async def test_a_job_without_a_limit_gets_the_accounts_and_not_the_workers_100(
    fake: FakeRunPod,
) -> None:
    await deltas(runpod, at(fake, maxTokens=512))
    assert fake.asked("/run")[0]["body"]["input"]["sampling_params"] == {"max_tokens": 512}


async def test_a_whole_request_as_input_carries_tools(fake: FakeRunPod) -> None:
    fake.behave("worker=new")
    await deltas(runpod, at(fake, jobInput="request"), call(tools=[TOOL]))
    sent = fake.asked("/run")[0]["body"]["input"]
    assert (sent["route"], sent["method"]) == (CHAT_PATH, "POST")
    assert sent["body"]["tools"] == [TOOL]
    assert sent["body"]["stream"] is True


async def test_each_model_may_have_an_endpoint_of_its_own(fake: FakeRunPod) -> None:
    to = at(fake, endpointId="", endpoints={"default": "demo", "coder": "other"})
    await deltas(runpod, to, call(model="coder"))
    await deltas(runpod, to, call(model="anything"))
    assert [job.endpoint for job in fake.jobs.values()] == ["other", "demo"]
    assert await runpod.models(to) == ["coder"]


async def test_a_model_without_an_endpoint_is_the_owners_to_mend(fake: FakeRunPod) -> None:
    to = at(fake, endpointId="", endpoints={"coder": "other"})
    error = await failure(runpod, to, call(model="anything"))
    assert (type(error), error.code) == (ProviderRefused, "endpoint_not_found")
    assert not fake.jobs


async def test_options_of_other_engines_are_left_out_of_a_job(fake: FakeRunPod) -> None:
    options = {"num_ctx": 4096, "think": False, "seed": 0}
    await deltas(runpod, at(fake), call(options=options))
    sent = fake.asked("/run")[0]["body"]["input"]["sampling_params"]
    assert sent == {"seed": 0, "max_tokens": 2048}


# -- waiting


async def test_a_cold_start_is_told_and_then_answered(fake: FakeRunPod) -> None:
    fake.behave("cold=5")
    found = await deltas(runpod, at(fake))
    assert found[0] == Waits("a RunPod worker is starting", 1)
    assert len(waits(found)) == 1
    assert text(found) == TEXT


async def test_a_queue_is_told_with_how_many_wait(fake: FakeRunPod) -> None:
    fake.behave("busy=4")
    assert waits(await deltas(runpod, at(fake))) == [Waits("queued at RunPod", 5)]


async def test_no_free_gpu_is_told(fake: FakeRunPod) -> None:
    fake.behave("stuck")
    async with runpod.chat(at(fake), call()) as found:
        assert await anext(found) == Waits("RunPod has no GPU free for this endpoint", 1)


async def test_a_long_wait_is_told_again_and_again(
    fake: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "SAID_SECONDS", 0)
    fake.behave("cold=6")
    assert len(waits(await deltas(runpod, at(fake)))) > 1


async def test_a_warm_worker_is_not_talked_about(fake: FakeRunPod) -> None:
    assert not waits(await deltas(runpod, at(fake)))
    assert not fake.asked("/health")


# -- leaving cancels


@fault(24)
async def test_a_client_that_leaves_while_the_job_is_queued_cancels_it(fake: FakeRunPod) -> None:
    fake.behave("stuck")
    async with runpod.chat(at(fake), call()) as found:
        await anext(found)
    assert fake.jobs["job1-u1"].status == "CANCELLED"
    assert fake.jobs["job1-u1"].runs == 0


@fault(24)
async def test_a_client_that_leaves_in_the_middle_of_an_answer_cancels_the_job(
    fake: FakeRunPod,
) -> None:
    fake.behave("endless")
    async with runpod.chat(at(fake), call()) as found:
        await first_piece(found)
    assert fake.jobs["job1-u1"].status == "CANCELLED"


@pytest.mark.parametrize("habit", ["stuck", "endless"])
async def test_a_task_that_is_cancelled_cancels_its_job(fake: FakeRunPod, habit: str) -> None:
    fake.behave(habit, "cancel-fails=1")
    task = asyncio.create_task(deltas(runpod, at(fake)))
    await until_status(fake, "IN_QUEUE" if habit == "stuck" else "IN_PROGRESS")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_status(fake, "CANCELLED")


async def test_a_task_that_is_cancelled_twice_still_cancels_its_job(fake: FakeRunPod) -> None:
    fake.behave("stuck", "cancel-fails=2")
    task = asyncio.create_task(deltas(runpod, at(fake)))
    await until_status(fake, "IN_QUEUE")
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_status(fake, "CANCELLED")


@fault(24)
async def test_a_client_that_leaves_while_the_job_is_being_taken_cancels_it(
    fake: FakeRunPod,
) -> None:
    fake.behave("run-slow=0.2")
    task = asyncio.create_task(deltas(runpod, at(fake)))
    await until_status(fake, "IN_QUEUE")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_status(fake, "CANCELLED")
    assert fake.jobs["job1-u1"].runs == 0


@fault(24)
async def test_a_time_out_of_the_callers_cancels_the_job(fake: FakeRunPod) -> None:
    fake.behave("endless")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await deltas(runpod, at(fake))
    assert fake.jobs["job1-u1"].status == "CANCELLED"


async def test_a_job_that_outlives_its_ttl_is_cancelled(
    fake: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_GRACE", -10)
    fake.behave("stuck")
    error = await failure(runpod, at(fake, ttl=10))
    assert isinstance(error, JobTimedOut)
    assert not error.retryable
    assert fake.jobs["job1-u1"].status == "CANCELLED"


async def test_a_job_whose_output_cannot_be_read_is_cancelled(
    fake: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRunPod, "_output", lambda *_: [{"text": "of another worker"}, {}])
    fake.behave("slow")
    assert (await failure(runpod, at(fake))).code == "upstream_garbled"
    assert fake.jobs["job1-u1"].status == "CANCELLED"


# -- no double run


async def test_a_job_whose_answer_was_lost_is_not_sent_again(fake: FakeRunPod) -> None:
    fake.behave("run-cut")
    error = await failure(runpod, at(fake))
    assert isinstance(error, JobFailed)
    assert (error.code, error.retryable) == ("job_uncertain", False)
    assert len(fake.asked("/run")) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_may_mean_that_the_job_was_taken(
    fake: FakeRunPod, status: int
) -> None:
    fake.behave(f"run-status={status}")
    error = await failure(runpod, at(fake))
    assert (error.code, error.retryable) == ("job_uncertain", False)
    assert len(fake.asked("/run")) == 1


async def test_nothing_was_taken_where_nothing_answers() -> None:
    to = target(runpod, {"apiUrl": "http://127.0.0.1:9/v2", "endpointId": "demo", "mode": "queue"})
    error = await failure(runpod, to)
    assert (error.code, error.retryable) == ("engine_unreachable", True)


async def test_a_refused_job_may_be_sent_again_when_runpod_says(fake: FakeRunPod) -> None:
    fake.behave("run-status=429")
    error = await failure(runpod, at(fake))
    assert isinstance(error, TooMany)
    assert (error.retryable, error.retry_after) == (True, 3)
    assert len(fake.asked("/run")) == 1


@fault(25)
@pytest.mark.parametrize("worker", ["worker=old", "worker=new", "worker=public"])
async def test_a_lost_poll_loses_no_token_and_runs_nothing_twice(
    fake: FakeRunPod, worker: str
) -> None:
    fake.behave(worker, "slow", "cut=100", "lose-poll=2")
    found = await deltas(runpod, at(fake))
    assert text(found) == TEXT
    assert finished(found).usage is not None
    assert [job.runs for job in fake.jobs.values()] == [1]


async def test_polls_refused_for_their_number_are_repeated(fake: FakeRunPod) -> None:
    fake.behave("poll-limit=3")
    assert text(await deltas(runpod, at(fake))) == TEXT
    assert len(fake.jobs) == 1


async def test_an_api_that_stays_away_ends_the_chat_and_the_job(fake: FakeRunPod) -> None:
    fake.behave("polls-cut")
    assert isinstance(await failure(runpod, at(fake)), EngineStopped)
    assert fake.jobs["job1-u1"].status == "CANCELLED"


# -- failures


async def test_a_failed_job_keeps_its_insides_and_says_what_kind_it_was(fake: FakeRunPod) -> None:
    fake.behave(f"fail={FAILURE}")
    error = await failure(runpod, at(fake))
    assert isinstance(error, JobFailed)
    assert not error.retryable
    assert "RuntimeError" in error.message
    assert "/app" not in error.message
    assert not fake.asked("/cancel/job1-u1")


@pytest.mark.parametrize("reason", ["plain text", "{not json", '{"error_message": 5}', "null"])
async def test_any_error_of_a_job_is_a_sentence(fake: FakeRunPod, reason: str) -> None:
    fake.behave(f"fail={reason}")
    assert (await failure(runpod, at(fake))).code == "job_failed"


@fault(33)
@pytest.mark.parametrize(
    "reason",
    [
        "This model's maximum context length is 2048 tokens. However, your prompt contains 3008 tokens.",
        {"error_message": "maximum context length is 2048 tokens, you requested 3008 tokens"},
        {"error": {"message": "maximum context length is 2048 tokens", "code": 400}},
    ],
)
async def test_too_long_a_prompt_is_told_however_deep_it_is_packed(
    fake: FakeRunPod, reason: object
) -> None:
    fake.behave(f"fail={json.dumps(reason) if isinstance(reason, dict) else reason}")
    error = await failure(runpod, at(fake))
    assert isinstance(error, ContextTooLong)
    assert "2048" in error.message


async def test_what_an_engine_refused_in_a_job_keeps_its_kind(fake: FakeRunPod) -> None:
    inner = json.dumps({"error": {"message": "top_p must be in (0, 1]", "code": 400}})
    fake.behave(f"fail={json.dumps({'error_type': 'HTTPError', 'error_message': inner})}")
    error = await failure(runpod, at(fake))
    assert isinstance(error, InvalidRequest)
    assert "top_p" in error.message


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [("TIMED_OUT", JobTimedOut, "job_timed_out"), ("CANCELLED", JobFailed, "job_cancelled")],
)
async def test_each_end_of_a_job_has_its_error(
    fake: FakeRunPod, status: str, kind: type, code: str
) -> None:
    fake.behave(f"ends={status}")
    error = await failure(runpod, at(fake))
    assert isinstance(error, kind)
    assert (error.code, error.retryable) == (code, False)


async def test_a_job_that_runpod_forgot_is_not_sent_again(fake: FakeRunPod) -> None:
    fake.behave("endless", "forget")
    error = await failure(runpod, at(fake))
    assert (error.code, error.retryable) == ("job_lost", False)
    assert len(fake.asked("/run")) == 1


async def test_an_error_that_a_worker_puts_out_is_one(fake: FakeRunPod) -> None:
    fake.behave("error-element")
    assert isinstance(await failure(runpod, at(fake)), JobFailed)


@fault(26)
async def test_a_completed_job_without_the_engines_end_is_not_complete(fake: FakeRunPod) -> None:
    fake.behave("worker=new", "no-done")
    assert isinstance(await failure(runpod, at(fake)), EngineStopped)


async def test_a_wrong_key_and_an_unknown_endpoint_are_the_owners_to_mend(
    fake: FakeRunPod,
) -> None:
    wrong = await failure(runpod, at(fake, apiKey="wrong"))
    assert (type(wrong), wrong.code) == (ProviderRefused, "upstream_refused_key")
    unknown = await failure(runpod, at(fake, endpointId="nobody"))
    assert (type(unknown), unknown.code) == (ProviderRefused, "endpoint_not_found")
    assert not wrong.retryable
    assert not unknown.retryable


# -- the OpenAI-compatible route, and load balancing


@pytest.mark.parametrize("mode", ["openai", "loadBalancing"])
async def test_the_other_routes_speak_openais_api(fake: FakeRunPod, mode: str) -> None:
    to = at(fake, mode=mode)
    assert text(await deltas(runpod, to)) == TEXT
    body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
    async with runpod.relay(to, CHAT_PATH, body, "r") as frames:
        passed = b"".join([frame async for frame in frames])
    assert passed.endswith(b"data: [DONE]\n\n")
    assert json.loads(await runpod.ask(to, CHAT_PATH, b'{"model": "m"}', "r"))["choices"]
    assert not fake.jobs


async def test_auto_sends_a_job_and_what_jobs_cannot_carry_by_the_other_route(
    fake: FakeRunPod,
) -> None:
    to = at(fake, mode="auto")
    await deltas(runpod, to)
    assert len(fake.jobs) == 1
    await deltas(runpod, to, call(tools=[TOOL]))
    await deltas(runpod, to, call(format="json"))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    await deltas(runpod, to, call(messages=[{"role": "user", "content": [image]}]))
    assert len(fake.jobs) == 1
    assert len(fake.asked("/openai/v1/chat/completions")) == 3


async def test_jobs_alone_leave_it_to_the_caller_to_tell_a_format(fake: FakeRunPod) -> None:
    assert text(await deltas(runpod, at(fake), call(format="json"))) == TEXT


async def test_jobs_alone_refuse_what_they_cannot_carry(fake: FakeRunPod) -> None:
    to = at(fake)
    assert isinstance(await failure(runpod, to, call(tools=[TOOL])), NotSupported)
    assert isinstance(await failure(runpod, to, call(options={"logprobs": True})), NotSupported)
    assert not runpod.capabilities_of(to).schemas
    with pytest.raises(NotSupported):
        await runpod.ask(to, CHAT_PATH, b"{}", "r")
    assert not runpod.capabilities_of(to).openai_paths
    assert runpod.capabilities_of(at(fake, mode="auto")).openai_paths
    assert runpod.capabilities_of(at(fake, jobInput="request")).tools
    assert not fake.jobs


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_error_as_json_under_200_is_an_error(fake: FakeRunPod, streamed: bool) -> None:
    fake.behave("error-under-200")
    to = at(fake, mode="openai")
    if streamed:
        assert isinstance(await failure(runpod, to), ContextTooLong)
    else:
        with pytest.raises(ContextTooLong):
            await runpod.ask(to, CHAT_PATH, b"{}", "r")


async def test_a_load_balancer_without_workers_may_be_asked_again(fake: FakeRunPod) -> None:
    fake.behave("no-workers")
    error = await failure(runpod, at(fake, mode="loadBalancing"))
    assert (error.status, error.retryable) == (503, True)


# -- settings and check


async def test_a_check_runs_nothing(fake: FakeRunPod) -> None:
    found = await runpod.check(at(fake, endpoints={"coder": "other"}))
    assert "Endpoint demo: workers: 1 idle" in found
    assert "Endpoint other" in found
    assert not fake.jobs
    for wrong in ({"apiKey": "wrong"}, {"endpointId": "nobody"}):
        with pytest.raises(ProviderRefused):
            await runpod.check(at(fake, **wrong))


async def test_a_check_of_a_load_balancer_pings(fake: FakeRunPod) -> None:
    assert "ready" in await runpod.check(at(fake, mode="loadBalancing"))
    fake.behave("cold=1")
    assert "no worker is ready" in await runpod.check(at(fake, mode="loadBalancing"))


@pytest.mark.parametrize(
    ("settings", "param"), [({"endpointId": "x"}, "apiKey"), ({"apiKey": "x"}, "endpointId")]
)
def test_what_is_missing_is_named(settings: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidProvider) as caught:
        runpod.target(RunPodSettings.model_validate(settings))
    assert caught.value.param == param


def test_milliseconds_where_seconds_are_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="86400"):
        RunPodSettings.model_validate({"executionTimeout": 600_000})


def test_a_key_is_in_no_text() -> None:
    settings = RunPodSettings.model_validate({"apiKey": KEY, "endpointId": "demo"})
    to = runpod.target(settings)
    assert KEY not in f"{settings} {settings.model_dump_json()} {to!r}"
