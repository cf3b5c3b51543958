"""The table of states."""

import pytest

from backends.lifecycle import (
    ALIVE,
    MOVES,
    SERVING,
    Health,
    State,
    after_missed_probes,
    health_of,
    may_move,
    sources_of,
)


def test_every_state_has_moves_and_a_health() -> None:
    assert set(MOVES) == set(State)
    assert {health_of(state) for state in State} <= set(Health)


@pytest.mark.parametrize("state", list(State))
def test_every_state_can_be_left_and_reached(state: State) -> None:
    assert MOVES[state]
    assert sources_of(state)


@pytest.mark.parametrize("state", list(State))
def test_staying_is_not_a_move(state: State) -> None:
    assert not may_move(state, state)


@pytest.mark.parametrize("state", sorted(ALIVE))
def test_whatever_is_alive_can_be_stopped_or_fail(state: State) -> None:
    seen, todo = set(), {state}
    while todo:
        at = todo.pop()
        seen.add(at)
        todo |= MOVES[at] - seen
    assert State.STOPPED in seen
    assert State.FAILED in seen


def test_requests_are_served_only_by_living_engines() -> None:
    assert SERVING < ALIVE


def test_a_stopped_engine_cannot_be_stopping() -> None:
    assert not may_move(State.STOPPED, State.STOPPING)


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_a_few_missed_probes_change_nothing(missed: int) -> None:
    assert after_missed_probes(State.READY, missed) == State.READY


def test_several_missed_probes_make_it_degraded_and_one_answer_brings_it_back() -> None:
    assert after_missed_probes(State.READY, 3) == State.DEGRADED
    assert after_missed_probes(State.DEGRADED, 5) == State.DEGRADED
    assert after_missed_probes(State.DEGRADED, 0) == State.READY


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPED, State.FAILED, State.DRAINING])
def test_probes_do_not_move_what_an_operation_or_an_exit_decides(state: State) -> None:
    assert after_missed_probes(state, 99) == state
