"""The right resolution, and never too many points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sampling.buckets import bucket_of
from backends.sampling.resolution import FINE, MINUTES, POINTS_MAX, QUARTERS, Resolution, reach

NOW = 1_700_000_003.0
DAY = 86_400


@pytest.mark.parametrize(
    ("seconds", "source", "step"),
    [
        (900, FINE, 5),
        (3600, FINE, 10),
        (DAY, MINUTES, 180),
        (7 * DAY, QUARTERS, 1800),
        (30 * DAY, QUARTERS, 7200),
    ],
)
def test_each_range_of_the_page_has_its_resolution(
    seconds: int, source: Resolution, step: int
) -> None:
    found = reach(now=NOW, since=NOW - seconds, until=NOW)
    assert (found.source, found.step) == (source, step)


def test_a_short_time_long_ago_is_as_fine_as_what_is_kept_of_it() -> None:
    found = reach(now=NOW, since=NOW - 7200, until=NOW - 6600)
    assert (found.source, found.step) == (MINUTES, 60)


def test_a_page_that_is_a_while_old_keeps_its_resolution() -> None:
    assert reach(now=NOW, since=NOW - DAY - 600, until=NOW).source == MINUTES
    assert reach(now=NOW, since=NOW - 3600 - 60, until=NOW).source == FINE


def test_fewer_points_can_be_asked_for() -> None:
    found = reach(now=NOW, since=NOW - 900, until=NOW, step=50)
    assert (found.source, found.step) == (FINE, 60)
    assert reach(now=NOW, since=NOW - 900, until=NOW, step=60).source == MINUTES


@given(st.floats(0, 40 * DAY), st.floats(1, 30 * DAY), st.none() | st.integers(1, DAY))
def test_points_are_bounded_and_made_of_whole_buckets_that_are_kept(
    ago: float, span: float, step: int | None
) -> None:
    until = NOW - ago
    found = reach(now=NOW, since=until - span, until=until, step=step)
    first, last = bucket_of(until - span, found.step), bucket_of(until, found.step)
    assert (last - first) // found.step + 1 <= POINTS_MAX
    assert found.step % found.source.step == 0
    assert found.step >= (step or 0)
    assert found.source == QUARTERS or ago + span <= found.source.reaches
