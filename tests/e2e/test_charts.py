"""The Charts page in a real Chromium: on a site with two GPUs, as far as NVML's fake has them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from backends.ports import free_port
from mhsite.home import REPOSITORY
from tests.e2e.browsing import WIDE, shoot
from tests.e2e.site import wait_for

pytestmark = pytest.mark.browser

PASSWORD = "pw-for-the-charts-1"
NVML = REPOSITORY / "tests" / "fakes" / "nvml"
#: A sample is 5 seconds long, and a machine may be busy.
SOON = 30_000


class Gpus:
    """The GPUs of the site; they can be changed at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, *powers: float) -> None:
        card = {"total": 24 << 30, "driver": 6 << 30, "power_limit": 450, "utilization": 40}
        cards = [{**card, "uuid": f"GPU-{i}", "power": power} for i, power in enumerate(powers)]
        half = self.path.with_suffix(".half")
        half.write_text(json.dumps({"gpus": cards, "uses": []}))
        half.replace(self.path)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mhc-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def gpus(folder: Path) -> Gpus:
    made = Gpus(folder / "gpus.json")
    made.say(120, 200)
    return made


@pytest.fixture(scope="module")
def url(folder: Path, gpus: Gpus) -> Iterator[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MH_", "DJANGO_"))}
    address = f"http://127.0.0.1:{(port := free_port())}"
    env: dict[str, Any] = {
        **inherited,
        "MH_HOME": str(folder / "home"),
        "MH_PORT": str(port),
        "MH_DEMO": "0",
        "MH_OWNER_PASSWORD": PASSWORD,
        "FAKE_NVML": str(gpus.path),
        "PYTHONPATH": str(NVML),
    }
    (folder / "home").mkdir()
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mhsite.cli", "up"],
            cwd=REPOSITORY,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{address}/health/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(answers, seconds=120, what="mh up answers")
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(base_url=url, viewport=WIDE)
    context.set_default_timeout(SOON)
    found = context.new_page()
    troubles: list[str] = []
    found.on("pageerror", lambda error: troubles.append(str(error)))
    found.on(
        "console",
        lambda heard: troubles.append(heard.text) if heard.type in {"error", "warning"} else None,
    )
    found.on(
        "request", lambda asked: None if asked.url.startswith(url) else troubles.append(asked.url)
    )
    found.goto("/admin/login/?next=/admin/charts/")
    found.get_by_label("Username").fill("owner")
    found.get_by_label("Password").fill(PASSWORD)
    found.get_by_role("button", name="Log in").click()
    found.wait_for_url("**/admin/charts/")
    yield found
    assert troubles == []
    context.close()


def value(page: Page, chart: str, number: int) -> Any:
    return page.locator(f"[data-chart={chart}] .mh-legend__value").nth(number)


def test_samples_come_by_themselves_and_gpus_that_appear_are_drawn(page: Page, gpus: Gpus) -> None:
    expect(value(page, "gpu-power", 1)).to_have_text("200 W")
    # What came between the making of the page and the line is asked for once.
    expect(page.locator("#mh-header[data-live=on]")).to_be_visible()
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    gpus.say(120, 333)
    expect(value(page, "gpu-power", 1)).to_have_text("333 W", timeout=SOON)
    assert asked == [], "what came was polled"
    row = page.locator("[data-numbers-of=gpu-power] tr, tbody tr").filter(has_text="GPU 1 ")
    expect(row.filter(has_text=" W").first.locator("td").nth(1)).to_have_text("333 W")
    plot = page.locator("[data-chart=gpu-power] [role=img]")
    assert "GPU 1" in (plot.get_attribute("aria-label") or "")
    gpus.say(120, 333, 77)
    expect(value(page, "gpu-power", 2)).to_have_text("77 W", timeout=SOON)
    shoot(page, "charts")


def test_a_range_is_chosen_without_a_new_page(page: Page) -> None:
    expect(page.locator("[data-resolution]")).to_have_text("A point is the mean of 10 s.")
    page.evaluate("window.mark = 1")
    page.get_by_role("link", name="7 d").click()
    expect(page.locator("[data-resolution]")).to_have_text("A point is the mean of 30 min.")
    expect(page.locator("[data-range='7d']")).to_have_attribute("aria-current", "true")
    assert page.url.endswith("?range=7d")
    assert page.evaluate("window.mark") == 1


def test_a_gap_in_samples_is_a_gap_in_lines(page: Page) -> None:
    """What the page keeps, asked in the page itself."""
    found = page.evaluate(
        """async () => {
          const { Samples } = await import("/static/backends/samples.js");
          const gpu = (power) => [{ kind: "gpu", id: "G", values: { power } }];
          const samples = new Samples({ step: 5, now: 1003, times: [990, 995, 1000],
            series: [{ node: "n", kind: "gpu", id: "G", title: "G", measures: { power: [1, 2, null] } }] }, 15);
          const took = [1000, 1010].map((at) => samples.add({ node: "n", at, step: 5, series: gpu(at) }));
          const strange = samples.add({ node: "n", at: 1015, step: 5, series: [{ kind: "gpu", id: "H", values: {} }] });
          return { took, strange, times: samples.times, power: samples.series[0].measures.power, now: samples.now };
        }"""
    )
    assert found["took"] == [True, True]
    assert found["strange"] is False
    assert dict(zip(found["times"], found["power"], strict=True)) == {
        1000: 1000, 1005: None, 1010: 1010,
    }  # fmt: skip
    assert found["now"] == 1015
