"""Faults of switches and of chats around them, on a whole site with two engines."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.backends.faults.table import fault
from tests.backends.faults.whole_site import WholeSite, until

LEFT, RIGHT = "fake-model", "other-model"
FAILING = "--engine-core --behaviour exit=error"


def slow(tokens: int, delay: float = 0.1) -> str:
    return f"--engine-core --token-delay {delay} --tokens {tokens}"


class Stream:
    """A streamed chat in a thread of its own."""

    def __init__(self, site: WholeSite, path: str = "/api/chat", **body: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self._done = False
        self._site = site
        self._path = path
        said = {"messages": [{"role": "user", "content": "hi"}], "stream": True, **body}
        self._thread = threading.Thread(target=self._run, args=(said,), daemon=True)
        self._thread.start()

    def _run(self, body: dict[str, Any]) -> None:
        headers = {"X-CSRFToken": self._site.client.headers["X-CSRFToken"]}
        cookies = dict(self._site.client.cookies)
        with (
            httpx.Client(timeout=60, trust_env=False, verify=False, cookies=cookies) as client,
            client.stream(
                "POST", self._site.url + self._path, json=body, headers=headers
            ) as answer,
        ):
            self.status = answer.status_code
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    self._done = True
                elif line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))

    def tokens(self) -> int:
        return sum(event.get("type") == "token" or bool(_content(event)) for event in self.events)

    def ended(self, seconds: float = 60) -> list[dict[str, Any]]:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the stream goes on for ever"
        return self.events

    @property
    def is_complete(self) -> bool:
        """Whether it says of itself that it is."""
        return self._done or any(event.get("type") == "done" for event in self.events)


def _content(event: dict[str, Any]) -> str:
    return "".join(str(c.get("delta", {}).get("content", "")) for c in event.get("choices", []))


@contextmanager
def chatting(ask: Callable[[], Any], clients: int) -> Iterator[list[Any]]:
    """Have ``clients`` ask all the time; yields what came of it."""
    answers: list[Any] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            answers.append(ask())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


@fault(15)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_switch_lets_a_stream_end(site: WholeSite, path: str) -> None:
    site.start("left", arguments=slow(20), drainSeconds=20)
    stream = Stream(site, path, model=LEFT)
    until(stream.tokens, 20, "a first token")
    switched = site.ask("switch", "right", wait=60)
    assert switched["state"] == "succeeded", switched
    assert stream.ended()
    assert stream.is_complete
    assert stream.tokens() == 20


@fault(15)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_what_a_switch_cuts_is_told_so(site: WholeSite, path: str) -> None:
    site.start("left", arguments=slow(10_000), drainSeconds=0.5)
    stream = Stream(site, path, model=LEFT)
    until(stream.tokens, 20, "a first token")
    switched = site.ask("switch", "right", wait=60)
    assert switched["state"] == "succeeded", switched
    last = stream.ended()[-1]
    assert last["error"]["code"] == "engine_stopped"
    assert not stream.is_complete


@fault(16, 18)
def test_requests_during_switches_are_held_and_served(site: WholeSite) -> None:
    site.start("left")
    with chatting(site.chat, clients=6) as answers:
        for name in ("right", "left", "right"):
            switched = site.ask("switch", name, wait=60)
            assert switched["state"] == "succeeded", switched
            before = len(answers)
            until(lambda: len(answers) > before + 12, 30, "chats after the switch")  # noqa: B023
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert {answer.json()["backend"] for answer in answers} == {"left", "right"}
    assert all(answer.json()["content"] for answer in answers)


@fault(17)
def test_a_switch_that_fails_has_what_ran_before_run_again(site: WholeSite) -> None:
    site.start("left", model=RIGHT)
    site.configure("right", arguments=FAILING)
    switched = site.ask("switch", "right", wait=60)
    assert switched["state"] == "rolled_back"
    assert "Left serves other-model again" in switched["error"]["message"]
    answer = site.chat()
    assert (answer.status_code, answer.json()["backend"]) == (200, "left")
    assert site.lies() == []


@fault(18)
def test_a_held_request_hears_its_place_and_is_served(site: WholeSite) -> None:
    site.start("left")
    site.configure("right", arguments="--engine-core --start-delay 3")
    moving = site.ask("switch", "right")
    until(lambda: site.operation(moving["id"])["step"] == "start", 20, "the start")
    stream = Stream(site)
    events = stream.ended()
    assert events[0]["type"] == "queued"
    assert events[0]["position"] == 1
    assert events[0]["eta_seconds"] is None or events[0]["eta_seconds"] >= 0
    assert stream.is_complete
    assert next(event for event in events if event["type"] == "start")["backend"] == "right"


@fault(20)
def test_a_stop_during_a_start_is_obeyed_at_once(site: WholeSite) -> None:
    site.configure("left", arguments="--engine-core --start-delay 30", startTimeoutSeconds=60)
    starting = site.ask("start", "left")
    until(lambda: site.seen("left").engines, 20, "an engine that starts")
    began = time.monotonic()
    stopped = site.ask("stop", "left", wait=30)
    assert stopped["state"] == "succeeded"
    assert time.monotonic() - began < 15
    assert site.operation(starting["id"])["state"] == "cancelled"
    assert site.lies() == []


@fault(22)
@pytest.mark.parametrize("wrong", [{"model": "no-such-model"}, {"port": "taken"}])
def test_what_cannot_work_is_found_before_anything_is_stopped(
    site: WholeSite, wrong: dict[str, Any]
) -> None:
    site.start("left")
    before = [process.pid for process in site.seen("left").all]
    if wrong == {"port": "taken"}:
        site.configure("right", port=int(site.url.rpartition(":")[2]))
        wrong = {}
    switched = site.ask("switch", "right", wait=30, **wrong)
    assert switched["state"] == "failed"
    assert switched["error"]["code"] in {"model_not_found", "port_in_use"}
    assert [step["name"] for step in switched["steps"]] == ["preflight"]
    assert [process.pid for process in site.seen("left").all] == before
    assert site.chat().status_code == 200


@fault(43)
def test_a_busy_engine_does_not_starve_who_wants_the_other(site: WholeSite) -> None:
    site.configure("right", model=RIGHT, onDemandStart=True, minimumStaySeconds=1)
    site.start("left", arguments=slow(5), onDemandStart=True, minimumStaySeconds=1)
    with chatting(lambda: site.chat(model=LEFT), clients=2) as answers:
        until(lambda: len(answers) > 2, 20, "chats on the left")
        began = time.monotonic()
        answer = site.chat(model=RIGHT)
        waited = time.monotonic() - began
        assert (answer.status_code, answer.json().get("backend")) == (200, "right"), answer.text
        assert waited < 30
    assert Counter(each.status_code for each in answers) == {200: len(answers)}


@fault(45)
def test_a_slow_stop_is_nobody_elses_wait(site: WholeSite) -> None:
    stubborn = "--engine-core --behaviour ignore-term"
    site.start("right", model=RIGHT, shareGpu=True)
    site.start("left", arguments=stubborn, stopTimeoutSeconds=6, shareGpu=True)
    stopping = site.ask("stop", "left")
    until(lambda: site.operation(stopping["id"])["step"] == "release", 20, "the release")
    waits = []
    while site.operation(stopping["id"])["state"] == "running":
        began = time.monotonic()
        answer = site.chat(model=RIGHT)
        waits.append(time.monotonic() - began)
        assert (answer.status_code, answer.json()["backend"]) == (200, "right")
    assert len(waits) >= 3
    assert max(waits) < 3, waits


@fault(47)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_engine_that_dies_in_mid_stream_makes_no_whole_answer(
    site: WholeSite, path: str
) -> None:
    site.start("left")
    habits = {"behaviour": ["crash-after=3"]}
    url = f"http://127.0.0.1:{site.ports['left']}/_fake/behaviour"
    assert httpx.post(url, json=habits, trust_env=False, verify=False).status_code == 200
    stream = Stream(site, path, model=LEFT)
    events = stream.ended()
    assert stream.status == 200
    assert stream.tokens() == 3
    assert events[-1]["error"]["code"] == "engine_stopped"
    assert not stream.is_complete
    whole = site.chat(model=LEFT)
    assert whole.status_code in {502, 503}
    until(lambda: site.lies() == [], 15, "nothing is left of it")


@fault(48)
def test_the_first_request_after_a_start_meets_an_engine_that_answers(site: WholeSite) -> None:
    site.configure("left", arguments="--engine-core --start-delay 2")
    for _ in range(2):
        starting = site.ask("start", "left")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: site.chat(model=LEFT), range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8, answers[0].text
        # It lets requests in before it ends.
        assert site.operation(starting["id"], wait=30)["state"] == "succeeded"
        assert site.ask("stop", "left", wait=30)["state"] == "succeeded"


@fault(49)
def test_the_defaults_serve_a_team(site: WholeSite) -> None:
    site.start("left", arguments=slow(10))
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: site.chat(), range(100)))
    assert Counter(answer.status_code for answer in answers) == {200: 100}


@fault(8, 44)
def test_an_engine_outlives_worker_observer_and_keeper_and_is_the_only_one(
    site: WholeSite,
) -> None:
    site.start("left")
    before = site.seen("left")
    for process in (site.parts()["worker"], site.parts()["observer"], *before.keepers):
        process.kill()
    old = {process.pid for process in before.keepers}

    def new_keeper() -> bool:
        keepers = site.seen("left").keepers
        return len(keepers) == 1 and keepers[0].pid not in old

    until(new_keeper, 30, "a new keeper")
    until(lambda: site.lies() == [], 30, "a true state")
    assert site.seen("left").engines == before.engines
    restarted = site.ask("restart", "left", wait=60)
    assert restarted["state"] == "succeeded"
    assert site.lies() == []
