"""What a meter makes of how a request ends."""

import asyncio
import time
from typing import Any

import pytest

from accounts.actors import Actor
from router.errors import EngineStopped
from router.usage import meter as meters
from router.usage.meter import Meter, admission
from router.usage.recording import Record

ACTOR = Actor(user=None, surface="v1", request_id="r-1", token_id="tok_1")
TOKENS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.fixture
def records(monkeypatch: Any) -> list[Record]:
    found: list[Record] = []
    monkeypatch.setattr(meters, "record", found.append)
    return found


def meter() -> Meter:
    return Meter(actor=ACTOR, kind="chat", begin=time.perf_counter())


def test_a_whole_request_is_one_record(records: list[Record]) -> None:
    with meter() as measured:
        measured.sent(provider="p", backend="", model="first")
        measured.sent(provider="q", backend="vllm", model="second", entry="e", role="persona")
        measured.piece()
        measured.piece()
        measured.tokens({**TOKENS, "completion_tokens_details": {"reasoning_tokens": 2}})
        measured.done()
    (record,) = records
    assert (record.outcome, record.attempts, record.user_name) == ("done", 2, "anonymous")
    assert (record.provider, record.model, record.entry, record.role) == (
        "q",
        "second",
        "e",
        "persona",
    )
    assert (record.total_tokens, record.reasoning_tokens) == (7, 2)
    assert (record.token_id, record.request_id) == ("tok_1", "r-1")
    assert record.queued_ms is not None
    assert record.ttft_ms is not None
    assert record.queued_ms <= record.ttft_ms <= record.total_ms


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (EngineStopped("gone"), "engine_stopped"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (ZeroDivisionError(), "internal_error"),
    ],
)
def test_how_it_ended_is_seen_from_what_leaves(
    records: list[Record], error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)), meter():
        raise error
    assert [record.outcome for record in records] == [outcome]
    assert records[0].total_tokens is None


def test_what_came_of_an_answer_without_an_end_is_counted(records: list[Record]) -> None:
    for characters, made in ((10, 5), (100, 25)):
        measured = Meter(
            actor=ACTOR, kind="chat", begin=time.perf_counter(), prompt=lambda: 4 * 100
        )
        with measured:
            measured.pieces, measured.characters = 5, characters
        record = records.pop()
        assert (record.prompt_tokens, record.completion_tokens) == (100, made)
        assert (record.total_tokens, record.estimated) == (100 + made, True)


def test_what_the_engine_counted_is_never_estimated(records: list[Record]) -> None:
    with meter() as measured:
        measured.pieces = 50
        measured.tokens(TOKENS)
    with meter():
        pass
    assert [(record.total_tokens, record.estimated) for record in records] == [
        (7, False),
        (None, False),
    ]


def test_a_client_that_goes_after_the_end_has_not_cancelled(records: list[Record]) -> None:
    measured = meter()
    measured.done()
    with pytest.raises(GeneratorExit), measured:
        raise GeneratorExit
    assert records[0].outcome == "done"


def test_an_error_that_was_answered_as_an_event_is_the_outcome(records: list[Record]) -> None:
    with meter() as measured:
        measured.failed("engine_stopped")
    assert records[0].outcome == "engine_stopped"


def test_a_request_that_is_not_let_in_is_recorded_and_one_that_is_is_not(
    records: list[Record],
) -> None:
    with admission(actor=ACTOR, kind="chat", begin=time.perf_counter()):
        pass
    with (
        pytest.raises(EngineStopped),
        admission(actor=ACTOR, kind="chat", begin=time.perf_counter()),
    ):
        raise EngineStopped("no")
    assert [(record.outcome, record.attempts) for record in records] == [("engine_stopped", 0)]


@pytest.mark.parametrize("usage", [{"prompt_tokens": "3"}, {"prompt_tokens": -1}, {"x": 1}])
def test_nonsense_of_an_engine_is_not_counted(
    records: list[Record], usage: dict[str, object]
) -> None:
    with meter() as measured:
        measured.tokens(usage)
    assert records[0].prompt_tokens is None
