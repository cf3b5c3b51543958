"""The benchmarks run to their end on tiny counts, and count right. What they measure here says nothing."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import bench_proxy, bench_streams, peers
from benchmarks.bench_proxy import PROGRAM
from benchmarks.flow import TOKENS, HttpClient, flow
from benchmarks.site import engine_process

ROOT = Path(__file__).resolve().parents[1]
#: Groups begin before single tests, so that none of these is alone at the end of a run.
LONG = pytest.mark.xdist_group("benchmarks")


def bench(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "MH_BENCH_RESULTS": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "mhsite.cli", "bench", name, *arguments, "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)[name]
    assert json.loads((folder / f"{name}.json").read_text()) == printed
    return printed


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with engine_process(PROGRAM) as url:
        yield url


def test_every_token_is_counted_at_every_pace(engine: str) -> None:
    for at_once, requests, delay in ((1, 2, 0.0), (5, 10, 0.001)):
        taken = asyncio.run(
            flow(engine, at_once=at_once, requests=requests, delay=delay, seconds=30)
        )
        assert (taken.requests, taken.tokens) == (requests, requests * TOKENS)
        assert len(taken.first_token_seconds) == requests


def test_an_answer_that_is_no_stream_ends_the_benchmark(engine: str) -> None:
    class Wrong(HttpClient):
        def request(self) -> bytes:
            return super().request().replace(b"/v1/chat/", b"/v1/nothing/")

    with pytest.raises(SystemExit, match="404"):
        asyncio.run(flow(engine, at_once=1, requests=1, kind=Wrong, delay=0, seconds=5))


def test_what_is_not_here_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers.shutil, "which", lambda *_, **__: None)
    found = bench_proxy.run(["nginx"], 1, [1])
    assert "nginx is not installed" in found["nginx"]["left_out"]
    assert "left out: nginx is not installed" in capsys.readouterr().out


def test_ratios_are_those_of_the_same_load() -> None:
    def entry(cpu: float, first: float) -> dict[str, Any]:
        costs = {"flat": cpu, "busy": cpu * 1.5, "paced": cpu * 2}
        row = {"streams": 50, **{f"cpu_us_per_token_{pace}": each for pace, each in costs.items()}}
        return {"loads": [{**row, "first_token_ms_p50": first, "first_token_ms_p99": first}]}

    found = {"direct": entry(0, 1.0), "nginx": entry(10, 1.5), "uvicorn": entry(25, 3.0)}
    found["floor"] = entry(20, 2.0)
    bench_proxy.add_ratios(found)
    row = found["uvicorn"]["loads"][0]
    assert (row["of_nginx_flat"], row["of_nginx_busy"], row["of_nginx_paced"]) == (2.5, 2.5, 2.5)
    assert row["first_token_ms_added_p50"] == 2.0
    verdicts = {each["what"]: each["met"] for each in bench_proxy.judged(found)}
    assert verdicts == {
        "/v1, flat: µs per token": True, "/v1, flat: of nginx": True,
        "/v1, busy: µs per token": True, "/v1, busy: of nginx": True,
        "/v1, paced: µs per token": False, "/v1, paced: of nginx": True,
    }  # fmt: skip
    # What the least that an ASGI application can do costs stands beside each.
    floors = {each["what"]: each["floor"] for each in bench_proxy.judged(found)}
    assert (floors["/v1, flat: µs per token"], floors["/v1, paced: of nginx"]) == (20, 2.0)


def test_cpu_time_is_that_of_a_process_and_those_below_it() -> None:
    spin = "import time\nwhile time.process_time() < 0.2: pass\n"
    below = f"subprocess.run([sys.executable, '-c', {spin + 'input()'!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys\n{spin}{below}"], stdin=subprocess.PIPE
    ) as process:
        root = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while bench_proxy.tree_cpu(root) < 0.4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(root.children()) == 1
        assert bench_proxy.tree_cpu(root) >= 0.4
        process.communicate(b"\n")


def test_the_slope_is_memory_over_time() -> None:
    points = [(float(at), 100 * 2**20 + at * 2**20) for at in range(0, 60, 2)]
    assert bench_streams.slope(points) == pytest.approx(60.0)


@LONG
@pytest.mark.process
def test_bench_proxy_measures_what_it_is_asked_to(tmp_path: Path) -> None:
    found = bench("proxy", tmp_path, "--only", "direct", "--at-once", "1", "--requests", "1")
    (row,) = found["proxies"]["direct"]["loads"]
    assert row["streams"] == 1
    assert row["requests"] == 6
    assert found["machine"]["cpus"]


@LONG
@pytest.mark.process
def test_bench_streams_misses_no_token(tmp_path: Path) -> None:
    found = bench("streams", tmp_path, "--streams", "5", "--minutes", "0.02")["result"]
    assert (found["wrong"], found["streams_at_the_end"]) == (0, 5)
    assert found["tokens"] > 50
    assert found["rss_streaming_mib"] > 0
