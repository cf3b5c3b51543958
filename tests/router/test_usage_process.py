"""What requests cost is written, whatever ends the web server: real processes, one site a test."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.router.live import MODEL, Site, live_site, wait_until

pytestmark = pytest.mark.process

ASK = {"messages": [{"role": "user", "content": "capital of France?"}]}
ROWS = """
import json
from router.usage_models import UsageRecord, UsageTotal
rows = UsageRecord.objects.values("kind", "surface", "outcome", "total_tokens", "model", "token_id")
totals = UsageTotal.objects.values_list("requests", flat=True)
print(json.dumps({"rows": list(rows), "total": sum(totals)}))
"""


def written(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.manage(ROWS))
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def ask(site: Site, client: httpx.Client, number: int) -> int:
    if number % 2:
        return client.post("/api/chat", json=ASK).status_code
    body = {**ASK, "model": MODEL, "stream": number % 4 == 0}
    return client.post("/v1/chat/completions", json=body).status_code


@pytest.mark.parametrize(
    "server",
    [
        "uvicorn",
        pytest.param("granian", marks=pytest.mark.thorough),
        pytest.param("daphne", marks=pytest.mark.thorough),
    ],
)
def test_what_200_chats_cost_is_written_when_the_server_is_told_to_stop_at_once(
    server: str,
) -> None:
    with live_site(server) as site:
        with httpx.Client(
            base_url=site.url, headers=site.auth, trust_env=False, timeout=60
        ) as client:
            with ThreadPoolExecutor(16) as pool:
                statuses = list(pool.map(lambda n: ask(site, client, n), range(200)))
            assert statuses == [200] * 200
            os.kill(site.web, signal.SIGTERM)
        wait_until(lambda: gone(site.web), what="the end of the web server")
        found = written(site)
        assert len(found["rows"]) == found["total"] == 200
        assert {row["outcome"] for row in found["rows"]} == {"done"}
        assert {row["model"] for row in found["rows"]} == {MODEL}
        assert {row["total_tokens"] for row in found["rows"]} == {18}
        assert all(row["token_id"] for row in found["rows"])
