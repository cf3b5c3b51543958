"""Rates of counts that engines begin anew."""

import math

from hypothesis import given
from hypothesis import strategies as st

from backends.sampling.counters import GAP_SECONDS, Counter


@given(st.lists(st.tuples(st.floats(0.1, 40), st.none() | st.integers(0, 10**9)), max_size=40))
def test_no_rate_is_negative_whatever_a_count_does(
    readings: list[tuple[float, int | None]],
) -> None:
    counter, at = Counter(), 0.0
    for seconds, value in readings:
        at += seconds
        found = counter.read(at, value)
        if found is not None:
            added, over = found
            assert added >= 0
            assert 0 < over <= GAP_SECONDS


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=60))
def test_everything_that_is_counted_is_added_once_also_over_missed_looks(
    events: list[tuple[int, bool]],
) -> None:
    counter, count, seen, at, in_all = Counter(), 0, 0, 0.0, 0.0
    counter.read(at, count)
    for added, misses in events:
        at, count = at + 0.2, count + added
        found = counter.read(at, None if misses else count)
        assert (found is None) == misses
        if found is not None:
            seen, in_all = count, in_all + found[0]
    assert in_all == seen


def test_a_missed_look_is_made_up_for_by_the_next() -> None:
    counter = Counter()
    assert counter.read(0, 100) is None
    assert counter.read(1, None) is None
    found = counter.read(2, 140)
    assert found == (40, 2)


def test_a_count_that_was_begun_anew_was_added_since_the_last_look() -> None:
    counter = Counter()
    counter.read(0, 5000)
    assert counter.read(1, 30) == (30, 1)


def test_after_a_gap_nobody_knows_when_it_came() -> None:
    counter = Counter()
    counter.read(0, 0)
    assert counter.read(GAP_SECONDS + 1, 90_000) is None
    added = counter.read(GAP_SECONDS + 2, 90_010)
    assert added is not None
    assert math.isclose(added[0], 10)
