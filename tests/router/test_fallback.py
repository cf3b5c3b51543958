"""Chains, retries, time-outs and the circuit breaker: a whole site, its engine, and a cloud that is another fake."""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.backends.faults.table import fault
from tests.router.live import MODEL, FakeEngine, Site, fake_engine, live_site, wait_until

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("fallback")]

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
SURFACES = ("/api/chat", "/v1/chat/completions")
SEED = """
from accounts.actors import Actor
from router.models import ProviderAccount
from router.services import registry_import, registry_export
ProviderAccount.objects.create(name="openai", kind="openai", settings={{"base_url": "{url}/v1"}})
data = registry_export()
data["models"] |= {{
    "here": {{"provider": "vllm"}},
    "there": {{"provider": "openai", "model": "{model}", "options": {{"maxTokens": 4}}}},
}}
data["roles"] |= {{"both": ["here", "there"], "cloud": ["there"], "home": ["here"]}}
registry_import(actor=Actor.system(), data=data)
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def running(cloud: FakeEngine) -> Iterator[Site]:
    limits = {"MH_FIRST_TOKEN_SECONDS": "1.5", "MH_ANSWER_SECONDS": "5"}
    with live_site(**limits) as site:
        site.manage(SEED.format(url=cloud.endpoint, model=MODEL))
        yield site


@pytest.fixture
def site(running: Site, cloud: FakeEngine) -> Iterator[Site]:
    for engine in (running.engine, cloud):
        engine.behave()
    yield running
    for engine in (running.engine, cloud):
        engine.behave()
        engine.await_running(0)


def post(site: Site, path: str, role: str, *, stream: bool = False) -> httpx.Response:
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False, timeout=30
    ) as client:
        body = {"model": f"role:{role}", "messages": FRANCE, "stream": stream}
        return client.post(path, json=body)


def text(response: httpx.Response) -> str:
    """The words of an answer, of whatever surface, streamed or not."""
    if not response.headers["content-type"].startswith("text/event-stream"):
        answer = response.json()
        return str(
            answer["choices"][0]["message"]["content"] if "choices" in answer else answer["content"]
        )
    words = []
    for event in events(response):
        if "choices" in event:
            words += [choice["delta"].get("content") or "" for choice in event["choices"]]
        elif event.get("type") == "token":
            words.append(event["content"])
    return "".join(words)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


@fault(31)
@pytest.mark.parametrize(
    ("path", "stream", "failure"),
    [
        ("/api/chat", True, "status=500"),
        ("/api/chat", False, "status=503"),
        ("/api/chat", True, "gone"),
        ("/v1/chat/completions", True, "status=503"),
        ("/v1/chat/completions", False, "status=429"),
        ("/v1/chat/completions", True, "status=500"),
        # It has said who speaks, and then nothing.
        ("/v1/chat/completions", True, "error-after=0"),
        ("/v1/chat/completions", True, "cut-after=0"),
        ("/v1/chat/completions", True, "silent-after=0"),
    ],
)
def test_what_fails_before_its_first_token_is_answered_by_the_next(
    site: Site, cloud: FakeEngine, path: str, *, stream: bool, failure: str
) -> None:
    before = cloud.state()["started"]
    with failing(site.engine, failure):
        response = post(site, path, "both", stream=stream)
    assert response.status_code == 200, response.text
    assert PARIS.startswith(text(response))
    assert text(response)
    assert cloud.state()["started"] == before + 1


def test_the_start_of_an_answer_says_who_gives_it_and_who_was_asked_before(site: Site) -> None:
    assert events(post(site, "/api/chat", "both", stream=True))[0]["entry"] == "here"
    with failing(site.engine, "status=500"):
        start = events(post(site, "/api/chat", "both", stream=True))[0]
    assert (start["type"], start["entry"]) == ("start", "there")
    (tried,) = start["tried"]
    assert (tried["entry"], tried["provider"]) == ("here", "vllm")
    assert tried["message"].endswith(".")


@contextlib.contextmanager
def failing(engine: FakeEngine, failure: str) -> Iterator[None]:
    if failure != "gone":
        engine.behave(failure)
        yield
        return
    engine.process.kill()
    engine.process.wait()
    try:
        yield
    finally:
        engine.start()


@fault(31)
@pytest.mark.parametrize("path", SURFACES)
def test_after_the_first_token_nobody_else_is_asked(
    site: Site, cloud: FakeEngine, path: str
) -> None:
    # One after another: what comes in one piece with an error has not been sent to anybody.
    site.engine.behave("error-after=2", token_delay=0.1)
    before = cloud.state()["started"]
    response = post(site, path, "both", stream=True)
    assert "error" in events(response)[-1]
    assert text(response) != PARIS
    assert cloud.state()["started"] == before


def test_a_request_that_is_wrong_is_not_asked_elsewhere(site: Site, cloud: FakeEngine) -> None:
    site.engine.behave("status=400")
    before = cloud.state()["started"]
    assert post(site, "/api/chat", "both").status_code == 400
    assert cloud.state()["started"] == before


def test_a_failure_that_passes_is_tried_again(site: Site) -> None:
    site.engine.behave("status=503")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, site, "/api/chat", "home")
        wait_until(lambda: site.engine.state()["refused"], what="the first try")
        site.engine.behave()
        assert text(answer.result()).startswith("The capital")


@pytest.mark.parametrize("path", SURFACES)
def test_an_engine_that_says_nothing_is_given_up_for_the_next(site: Site, path: str) -> None:
    site.engine.behave("silent")
    aborted = site.engine.state()["aborted"]
    # Not streamed, an answer is all that comes, and it may take as long as one may take.
    response = post(site, path, "both", stream=path == "/api/chat")
    assert text(response) != ""
    site.engine.await_abort(aborted)


def test_an_answer_that_never_ends_is_ended(site: Site) -> None:
    site.engine.behave("silent-after=2")
    response = post(site, "/api/chat", "home", stream=True)
    assert events(response)[-1]["error"]["code"] == "answer_timed_out"


@fault(27)
def test_a_cloud_model_is_answered_while_no_engine_runs(site: Site) -> None:
    row = "from backends.models import Backend; Backend.objects.update(state='{}')"
    site.manage(row.format("stopped"))
    try:
        for path in SURFACES:
            response = post(site, path, "cloud")
            assert response.status_code == 200, response.text
        answer = post(site, "/api/chat", "both").json()
        assert (answer["provider"], answer["backend"]) == ("openai", None)
        assert post(site, "/api/chat", "home").status_code == 503
    finally:
        site.manage(row.format("ready"))


def test_what_fails_again_and_again_is_left_alone_for_a_while(cloud: FakeEngine) -> None:
    with live_site(MH_BREAKER_FAILURES="3") as site:
        site.manage(SEED.format(url=cloud.endpoint, model=MODEL))
        site.engine.behave("status=404")
        assert [post(site, "/api/chat", "home").status_code for _ in range(4)] == [404] * 4
        site.engine.behave("status=500")
        assert post(site, "/api/chat", "home").status_code == 502
        before = site.engine.state()["refused"]
        refused = post(site, "/api/chat", "home")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "circuit_open"
        assert 1 <= int(refused.headers["Retry-After"]) <= 5
        assert text(post(site, "/api/chat", "both"))
        assert site.engine.state()["refused"] == before
