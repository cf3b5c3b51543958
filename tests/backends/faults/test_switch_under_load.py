"""The GPU moves between two engines while everybody chats; nobody notices, but for a wait."""

import asyncio
import itertools
import os
from typing import Any

import httpx
import pytest

from backends.ports import free_port
from tests.backends.faults.load import Clients, Report
from tests.backends.faults.whole_site import BACKENDS, WholeSite, whole_site

pytestmark = [pytest.mark.process, pytest.mark.timeout(1200)]

#: ``mh test`` asks for fewer of both, ``mh test -m faults`` for these.
SWITCHES = int(os.environ.get("MH_TEST_SWITCHES", "50"))
#: Each is a start of real vLLM while 32 clients wait.
VLLM_SWITCHES = int(os.environ.get("MH_TEST_VLLM_SWITCHES", "5"))
CLIENTS = 32
DEMO_MODEL = "SmolLM2-135M-Instruct"


def token_of(site: WholeSite) -> str:
    return str(site.post_created("/api/tokens", {"name": "load"})["token"])


async def under_load(site: WholeSite, names: tuple[str, ...], switches: int) -> Report:
    """Switch through ``names`` while the clients chat."""
    clients = Clients(site.url, token_of(site), count=CLIENTS, seconds=300)
    running = asyncio.create_task(clients.run())
    headers = dict(site.client.headers)
    async with httpx.AsyncClient(
        base_url=site.url,
        headers=headers,
        cookies=site.client.cookies,
        timeout=300,
        trust_env=False,
    ) as owner:
        for name in itertools.islice(itertools.cycle(names), switches):
            ended = await _switch(owner, name)
            assert ended["state"] == "succeeded", ended
            assert not running.done()
            # Until somebody was answered by the new one.
            async with asyncio.timeout(60):
                await clients.report.next_answer(name)
    clients.stop()
    return await running


async def _switch(owner: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await owner.post(
        "/api/llm-backend/switch", json={"backend": name}, params={"wait": 300}
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.engine
def test_the_same_with_real_vllm_on_one_side(capsys: pytest.CaptureFixture[str]) -> None:
    with whole_site() as site:
        site.configure("left", arguments="--engine-core --token-delay 0.05", drainSeconds=30)
        site.configure("vllm", model=DEMO_MODEL, port=free_port(), drainSeconds=60)
        assert site.ask("start", "left", wait=60)["state"] == "succeeded"
        report = asyncio.run(under_load(site, ("vllm", "left"), 2 * VLLM_SWITCHES))
        with capsys.disabled():
            print(f"\n{VLLM_SWITCHES} to vLLM and as many back: {report.lines()}")
        assert report.failures == []
        assert "" not in report.texts
        assert site.client.post("/api/llm-backend/left/stop?wait=60").status_code == 200
        assert site.lies() == []
        assert site.seen("vllm").all == []


def test_fifty_switches_under_32_clients_fail_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with whole_site() as site:
        for name in BACKENDS:
            # An answer takes most of a second: every client is always in one, and would see it cut off.
            site.configure(name, arguments="--engine-core --token-delay 0.05", drainSeconds=30)
        assert site.ask("start", "left", wait=60)["state"] == "succeeded"
        report = asyncio.run(under_load(site, ("right", "left"), SWITCHES))
        with capsys.disabled():
            print(f"\n{SWITCHES} switches: {report.lines()}")
        assert report.failures == []
        assert len(report.texts) == 1, report.texts
        assert all(report.answers[surface] > 0 for surface in ("v1", "v1 stream", "socket"))
        assert site.lies() == []
        site.ask("stop", "left", wait=60)
        assert site.lies() == []
        assert [process for name in BACKENDS for process in site.seen(name).all] == []
