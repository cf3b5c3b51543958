"""Nothing seen is lost or counted twice, whatever clocks and restarts do."""

import json
import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from backends.sampling.buckets import Collector, bucket_of, followed, preceded, rolled, together
from backends.sampling.resolution import RESOLUTIONS
from backends.sampling.stats import Reading, Stat, from_json, merged, to_json

STEPS = [one.step for one in RESOLUTIONS]
#: Moments as a clock gives them that stands still, runs, jumps ahead and is set back; whole quarters of seconds,
#: so that sums are exact.
moves = st.lists(st.integers(-20_000, 20_000) | st.integers(0, 8), max_size=60)
series = st.sampled_from(["gpu/GPU-0", "gpu/GPU-1", "backend/vllm"])
stats = st.builds(
    Stat, st.integers(1, 9).map(float), st.integers(0, 10_000).map(float), st.integers(0, 99).map(float)
)  # fmt: skip
readings = st.dictionaries(series, st.dictionaries(st.sampled_from(["a", "b"]), stats, min_size=1))


def at_from(begin: float, moved: Iterable[int]) -> list[float]:
    at, found = begin, []
    for step in moved:
        at += step / 4
        found.append(at)
    return found


def collected(step: int, seen: list[tuple[float, Reading]]) -> list[tuple[int, Reading]]:
    collector = Collector(step)
    ended = [found for at, reading in seen if (found := collector.add(at, reading))]
    last = collector.close()
    return [*ended, last] if last else ended


def looks(data: st.DataObject) -> list[tuple[float, Reading]]:
    times = at_from(1_700_000_000.0, data.draw(moves))
    return [(at, data.draw(readings)) for at in times]


def totals(found: Iterable[Reading]) -> dict[tuple[str, str], Stat]:
    return {
        (name, measure): stat
        for name, measures in merged(found).items()
        for measure, stat in measures.items()
    }


@given(st.data())
def test_every_look_is_in_exactly_one_bucket_of_every_resolution(data: st.DataObject) -> None:
    seen = looks(data)
    for step in STEPS:
        ended = collected(step, seen)
        assert totals(reading for _, reading in ended) == totals(reading for _, reading in seen)
        kept = together(ended)
        for at, reading in kept.items():
            assert at % step == 0
            mine = [one for moment, one in seen if bucket_of(moment, step) == at]
            assert merged(mine) == reading


@given(st.data(), st.integers(0, 60))
def test_a_restart_in_the_middle_of_a_bucket_changes_nothing(data: st.DataObject, cut: int) -> None:
    seen = looks(data)
    for step in STEPS:
        parts = [*collected(step, seen[:cut]), *collected(step, seen[cut:])]
        assert together(parts) == together(collected(step, seen))


@given(st.data())
def test_a_coarse_bucket_is_what_its_fine_ones_are_together(data: st.DataObject) -> None:
    seen = looks(data)
    for fine, coarse in [(5, 60), (60, 900), (5, 900)]:
        by_way_of_fine = rolled(together(collected(fine, seen)), coarse)
        assert by_way_of_fine == together(collected(coarse, seen))
        assert list(by_way_of_fine) == sorted(by_way_of_fine)


@given(st.data())
def test_what_is_not_in_the_database_yet_follows_what_is_and_nothing_is_there_twice(
    data: st.DataObject,
) -> None:
    times = at_from(1_700_000_000.0, data.draw(st.lists(st.integers(0, 200), max_size=60)))
    seen = [(at, data.draw(readings)) for at in times]
    minutes = collected(60, seen)
    cut = data.draw(st.integers(0, len(minutes)))
    written, fine = minutes[:cut], together(collected(5, seen))
    end = written[-1][0] + 60 if written else 0
    for step in (60, 900):
        kept = rolled(together(written), step)
        answer = rolled(followed(kept, fine, end), step)
        assert answer == together(collected(step, seen))


@given(st.lists(readings, max_size=5))
def test_many_are_merged_as_two_are(several: list[Reading]) -> None:
    one: Reading = {}
    for reading in several:
        for name, measures in reading.items():
            mine = one.setdefault(name, {})
            for measure, stat in measures.items():
                mine[measure] = mine[measure].plus(stat) if measure in mine else stat
    assert merged(several) == one


def test_a_gap_leaves_no_bucket() -> None:
    one: Reading = {"gpu/GPU-0": {"power": Stat.of(7)}}
    assert [at for at, _ in collected(5, [(3, one), (4, one), (61, one)])] == [0, 60]


def test_before_the_first_fine_bucket_minutes_stand_in() -> None:
    old: Reading = {"gpu/GPU-0": {"power": Stat.of(7)}}
    new: Reading = {"gpu/GPU-0": {"power": Stat.of(9)}}
    found = preceded({0: old, 60: old}, {75: new, 80: new}, step=15, begin=200)
    assert found == {**dict.fromkeys([0, 15, 30, 45, 60], old), 75: new, 80: new}
    assert list(preceded({0: old}, {}, step=30, begin=45)) == [0, 30]


@given(readings)
def test_what_is_kept_as_json_is_read_as_it_was(reading: Reading) -> None:
    assert from_json(json.loads(json.dumps(to_json(reading)))) == reading


def test_means_are_weighed_and_peaks_survive() -> None:
    both = Stat.rate(10, 1).plus(Stat.rate(2, 3))
    assert (both.mean, both.most) == (3, 10)
    assert math.isclose(Stat.of(1).plus(Stat.of(2)).plus(Stat.of(6)).mean, 3)
