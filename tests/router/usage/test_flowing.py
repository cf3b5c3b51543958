"""What requests add to their backends is told as it comes, and in the end it is what the engine counted."""

import time
from collections.abc import Callable, Mapping

import pytest

from accounts.actors import Actor
from router.usage import flowing, meter
from router.usage.flowing import Flow
from router.usage.meter import Meter

ACTOR = Actor(user=None, surface="v1", request_id="r-1")


class Told:
    """Adds up what a flow tells."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, float]] = {}
        self.times = 0

    def __call__(self, added: Mapping[str, Mapping[str, float]]) -> None:
        self.times += 1
        for backend, counts in added.items():
            mine = self.sums.setdefault(backend, {})
            for name, value in counts.items():
                mine[name] = mine.get(name, 0) + value


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(meter, "record", lambda _: None)
    return Told()


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch, told: Told) -> Flow:
    made = Flow(told)
    monkeypatch.setattr(flowing, "begun", made.begun)
    monkeypatch.setattr(flowing, "ended", made.ended)
    return made


def measured(backend: str = "ollama") -> Meter:
    made = Meter(actor=ACTOR, kind="chat", begin=0.0)
    made.sent(provider="active", backend=backend, model="m")
    return made


def test_pieces_are_told_while_a_request_is_under_way_and_its_first_token_once(
    flow: Flow, told: Told
) -> None:
    with measured() as request:
        flow.look()
        assert told.times == 0
        request.piece()
        request.pieces += 2
        flow.look()
        assert told.sums["ollama"]["tokens"] == 3
        assert told.sums["ollama"]["firsts"] == 1
        request.pieces += 1
        flow.look()
        assert told.sums["ollama"]["tokens"] == 4
        assert told.sums["ollama"]["firsts"] == 1


def test_at_the_end_it_is_what_the_engine_counted(flow: Flow, told: Told) -> None:
    with measured() as request:
        request.piece()
        flow.look()
        request.tokens({"prompt_tokens": 9, "completion_tokens": 40})
        request.done()
    flow.look()
    flow.look()
    assert (told.sums["ollama"]["tokens"], told.sums["ollama"]["prompt_tokens"]) == (40, 9)


def test_what_was_told_too_much_is_not_taken_back(flow: Flow, told: Told) -> None:
    with measured() as request:
        request.piece()
        request.pieces += 9
        flow.look()
        request.tokens({"prompt_tokens": 1, "completion_tokens": 6})
    flow.look()
    assert told.sums["ollama"]["tokens"] == 10


def test_what_a_cloud_answers_and_what_is_refused_is_nobodys(flow: Flow, told: Told) -> None:
    with measured("") as request:
        request.piece()
    Meter(actor=ACTOR, kind="chat", begin=0.0).end()
    flow.look()
    assert told.times == 0


def test_it_looks_while_there_are_requests_and_sleeps_without(
    flow: Flow, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = flow.look

    def counted() -> None:
        looks.append(time.monotonic())
        look()

    def until(wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not wanted():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    monkeypatch.setattr(flowing, "EVERY", 0.01)
    monkeypatch.setattr(flow, "look", counted)
    flow.start()
    time.sleep(0.1)
    assert looks == []
    for tokens in (3, 7):
        with measured() as request:
            request.piece()
            seen = len(looks)
            # It goes on looking, although nothing begins or ends.
            until(lambda seen=seen: len(looks) > seen + 3)  # type: ignore[misc]
            request.tokens({"prompt_tokens": 1, "completion_tokens": tokens})
            request.done()
        until(lambda: told.sums["ollama"]["tokens"] in {3, 10})
    assert told.sums["ollama"]["tokens"] == 10
    # The last look that was due, at most one more, and then none.
    time.sleep(0.1)
    seen = len(looks)
    time.sleep(0.1)
    assert len(looks) == seen
