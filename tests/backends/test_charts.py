"""The charts in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import charts
from backends.payloads import SampleSeries, SamplesPayload
from backends.sampling.looks import BACKEND_MEASURES, GPU_MEASURES, SITE_MEASURES

CHARTS = {chart.key: chart for chart in charts.CHARTS}


def payload(*series: SampleSeries) -> SamplesPayload:
    return SamplesPayload(
        now=20, since=0, until=20, step=5, resolution=5, statistic="mean", times=[0, 5, 10, 15],
        series=list(series),
    )  # fmt: skip


def gpu(**measures: list[float | None]) -> SampleSeries:
    return SampleSeries(node="n", kind="gpu", id="GPU-0", title="GPU 0 · Fake", measures=measures)


def test_every_measure_that_is_drawn_is_sampled() -> None:
    sampled = {"gpu": GPU_MEASURES, "backend": BACKEND_MEASURES, "site": SITE_MEASURES}
    for chart in charts.CHARTS:
        for line in chart.lines:
            assert line.measure in sampled[line.kind]
        assert chart.top_measure in {"", *GPU_MEASURES}


def test_a_chart_in_numbers_is_its_latest_mean_and_highest_value() -> None:
    (memory,) = charts.numbers(
        payload(gpu(memory_used=[2 * charts.GIB, None, 4 * charts.GIB, None]))
    )
    assert memory.chart.key == "gpu-memory"
    (row,) = memory.rows
    assert row == charts.Row("GPU 0 · Fake", "4 GB", "3 GB", "4 GB")


def test_what_has_not_been_seen_lately_is_not_called_latest() -> None:
    (power,) = charts.numbers(payload(gpu(power=[300.0, 310.0, None, None])))
    assert power.rows[0].latest == charts.NOTHING


def test_lines_of_the_same_chart_are_told_apart() -> None:
    series = SampleSeries(
        node="n", kind="backend", id="vllm", title="vLLM",
        measures={"ttft_seconds": [0.25], "engine_ttft_seconds": [0.1]},
    )  # fmt: skip
    (first,) = charts.numbers(payload(series))
    assert [(row.title, row.latest) for row in first.rows] == [
        ("vLLM", "0.25 s"), ("vLLM, in the engine", "0.1 s"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("gpu-power", 634.4, "634 W"),
        ("gpu-power", 61.26, "61.3 W"),
        ("tokens", 12345.6, "12346 tokens/s"),
        ("kv-cache", 0.1234, "12.3 %"),
        ("running", 3.0, "3"),
        ("tokens", 0.00001, "0 tokens/s"),
        ("tokens", None, "—"),
    ],
)
def test_numbers_have_about_three_digits_and_their_unit(
    key: str, value: float | None, text: str
) -> None:
    assert charts.number_text(value, CHARTS[key]) == text


@given(st.floats(0, 1e12))
def test_no_number_is_written_with_an_exponent(value: float) -> None:
    assert "e" not in charts.number_text(value, CHARTS["running"])


def test_an_unknown_range_is_the_usual_one() -> None:
    assert charts.range_of("24h").seconds == 86_400
    assert charts.range_of("<script>") == charts.USUAL
