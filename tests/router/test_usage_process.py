"""What requests cost is written, however they and the web server end: real processes."""

import contextlib
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.router.live import MODEL, Site, live_site, wait_until

pytestmark = pytest.mark.process

ASK = {"messages": [{"role": "user", "content": "capital of France?"}]}
ROWS = """
import json
from router.usage_models import UsageRecord, UsageTotal
rows = UsageRecord.objects.values("outcome", "total_tokens", "model", "token_id")
totals = UsageTotal.objects.values_list("requests", flat=True)
print(json.dumps({"rows": list(rows), "total": sum(totals)}))
"""


def client_of(site: Site) -> httpx.Client:
    return httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False, timeout=60
    )


def written(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.manage(ROWS))
    return found


def recorded(site: Site, request_id: str) -> dict[str, Any]:
    """Return the record of a request, as soon as it is there."""

    def look() -> list[dict[str, Any]]:
        with client_of(site) as client:
            answer = client.get("/api/usage", params={"request_id": request_id})
            found: list[dict[str, Any]] = answer.json()["results"]
            return found

    rows: list[dict[str, Any]] = wait_until(look, what="the record")
    assert len(rows) == 1
    return rows[0]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def ask(client: httpx.Client, number: int) -> int:
    if number % 2:
        return client.post("/api/chat", json=ASK).status_code
    body = {**ASK, "model": MODEL, "stream": number % 4 == 0}
    return client.post("/v1/chat/completions", json=body).status_code


def stream(client: httpx.Client) -> None:
    with contextlib.suppress(httpx.HTTPError):
        client.post("/v1/chat/completions", json={**ASK, "model": MODEL, "stream": True})


#: As much as a kill of a site: mh test -m faults.
LONG = [pytest.mark.faults, pytest.mark.thorough]


@pytest.mark.parametrize(
    "server",
    ["uvicorn", pytest.param("granian", marks=LONG), pytest.param("daphne", marks=LONG)],
)
def test_what_200_chats_cost_is_written_when_the_server_is_told_to_stop_at_once(
    server: str,
) -> None:
    with live_site(server) as site, client_of(site) as client:
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda number: ask(client, number), range(200)))
        assert statuses == [200] * 200
        site.engine.behave(token_delay=0.5, tokens=1000)
        still = [threading.Thread(target=stream, args=(client,)) for _ in range(5)]
        for thread in still:
            thread.start()
        site.engine.await_running(5)
        os.kill(site.web, signal.SIGTERM)
        wait_until(lambda: gone(site.web), what="the end of the web server")
        for thread in still:
            thread.join()
        found = written(site)
        done = [row for row in found["rows"] if row["outcome"] == "done"]
        assert len(done) == 200
        assert {(row["model"], row["total_tokens"]) for row in done} == {(MODEL, 18)}
        assert all(row["token_id"] for row in done)
        cut = [row["outcome"] for row in found["rows"] if row["outcome"] != "done"]
        assert cut == ["cancelled"] * 5
        assert found["total"] == 205


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_a_stream_is_counted_and_its_client_sees_what_it_asked_for(
    site: Site, options: dict[str, Any]
) -> None:
    body = {**ASK, "model": MODEL, "stream": True, **options}
    with client_of(site) as client:
        name = {"X-Request-ID": f"counted-{len(options)}"}
        ours = client.post("/v1/chat/completions", json=body, headers=name).text
    assert ('"usage"' in ours) == bool(options)
    assert ours.endswith("data: [DONE]\n\n")
    row = recorded(site, f"counted-{len(options)}")
    assert (row["outcome"], row["surface"], row["kind"]) == ("done", "v1", "chat")
    assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"] > 0
    assert 0 < row["queued_ms"] <= row["ttft_ms"] <= row["total_ms"]


def test_a_chat_that_is_cancelled_or_fails_is_recorded_so(site: Site) -> None:
    site.engine.behave(token_delay=0.05, tokens=1000)
    headers = {**site.auth, "X-Request-ID": "socket"}
    with connect(site.websocket, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps({"type": "chat", "id": "a", **ASK}))
        while json.loads(socket.recv(10))["type"] != "token":
            pass
        socket.send(json.dumps({"type": "cancel", "id": "a"}))
        row = recorded(site, "socket.1")
    assert (row["outcome"], row["surface"], row["estimated"]) == ("cancelled", "websocket", True)
    site.engine.behave("cut-after=3")
    with client_of(site) as client:
        client.post("/api/chat", json=ASK, headers={"X-Request-ID": "cut"})
    cut = recorded(site, "cut")
    assert (cut["outcome"], cut["estimated"], cut["completion_tokens"]) == (
        "engine_stopped",
        True,
        3,
    )


QUOTA = """
from accounts.actors import Actor
from router.usage import services
services.quota_{what}(actor=Actor.system(), username="the-standard"{more})
"""


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/completions"])
def test_leaving_before_the_end_is_no_way_round_a_quota(site: Site, path: str) -> None:
    site.engine.behave(token_delay=0.01, tokens=1000)
    text = "word " * 400
    said = (
        {"prompt": text}
        if "chat" not in path
        else {"messages": [{"role": "user", "content": text}]}
    )
    name = {"X-Request-ID": f"left{path.replace('/', '-')}"}
    with client_of(site) as client:
        with client.stream("POST", path, json={**said, "stream": True}, headers=name) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data:"))
            assert len([next(lines) for _ in range(20)]) == 20
        row = recorded(site, name["X-Request-ID"])
        assert (row["outcome"], row["estimated"]) == ("cancelled", True)
        # The first line may say only who speaks, or who answers.
        assert row["completion_tokens"] >= 19
        assert 400 <= row["prompt_tokens"] <= 600
        assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"]
        site.manage(QUOTA.format(what="set", more=", tokens_per_day=400"))
        try:
            refused = wait_until(
                lambda: (answer := client.post(path, json=said)).status_code == 429 and answer,
                what="the refusal",
            )
        finally:
            site.manage(QUOTA.format(what="delete", more=""))
            site.engine.behave()
            wait_until(lambda: client.post(path, json=said).status_code == 200, what="an answer")
    assert refused.json()["error"]["code"] == "quota_exceeded"
