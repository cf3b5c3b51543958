"""``/api/chat`` and ``/v1`` on real sockets: a web server process in front of a fake engine process."""

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from accounts import database
from tests.router.live import MODEL, Site, wait_until

pytestmark = pytest.mark.process

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
SURFACES = ("/api/chat", "/v1/chat/completions", "/v1/completions")


def ask(path: str, **more: Any) -> dict[str, Any]:
    """A request that every surface understands in its own words."""
    said = {"prompt": "capital of France"} if path == "/v1/completions" else {"messages": FRANCE}
    return {**said, **more}


def post(site: Site, path: str, body: Any = None, **more: Any) -> httpx.Response:
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False, timeout=30
    ) as client:
        return client.post(path, **({"json": body} if body is not None else {}), **more)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of every ``data:`` line but the end marker."""
    lines = [
        line.removeprefix("data: ") for line in response.text.splitlines() if line[:5] == "data:"
    ]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def streamed(site: Site, path: str) -> list[dict[str, Any]]:
    return events(post(site, path, ask(path, stream=True)))


def test_a_chat_is_answered_with_everything_the_contract_names(site: Site) -> None:
    response = post(site, "/api/chat", ask("/api/chat"), headers={"X-Request-ID": "my-request"})
    answer = response.json()
    timings = answer.pop("timings")
    assert answer == {
        "content": PARIS,
        "reasoning": "",
        "tool_calls": [],
        "model": MODEL,
        "provider": "active",
        "backend": "vllm",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 14, "completion_tokens": 7, "total_tokens": 21},
        "request_id": "my-request",
    }
    assert 0 <= timings["queued_ms"] <= timings["ttft_ms"] <= timings["total_ms"]


def test_a_streamed_chat_is_start_tokens_done(site: Site) -> None:
    response = post(site, "/api/chat", ask("/api/chat", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    found = events(response)
    assert [event["type"] for event in found] == ["start", *["token"] * 7, "done"]
    assert "".join(event["content"] for event in found[1:-1]) == PARIS


def test_reasoning_and_tool_calls_are_apart_from_the_answer(site: Site) -> None:
    for habit in ("reasoning", "reasoning-old", "split"):
        site.engine.behave(habit, *(["reasoning"] if habit == "split" else []))
        answer = post(site, "/api/chat", ask("/api/chat")).json()
        assert (answer["reasoning"], answer["content"]) == ("Let me think.", PARIS)
    site.engine.behave("tool")
    answer = post(site, "/api/chat", ask("/api/chat")).json()
    call = {"id": "chatcmpl-tool-1", "name": "weather", "arguments": '{"city": "Paris"}'}
    assert (answer["tool_calls"], answer["finish_reason"]) == ([call], "tool_calls")


def test_options_of_the_registry_are_sent_and_the_clients_win(site: Site) -> None:
    answer = post(site, "/api/chat", ask("/api/chat", role="cold")).json()
    assert (answer["content"], answer["finish_reason"]) == ("The capital of", "length")
    sent = site.engine.state()["last"]
    assert (sent["temperature"], sent["max_tokens"]) == (0, 3)
    post(
        site,
        "/api/chat",
        ask("/api/chat", role="cold", options={"temperature": 0.5, "maxTokens": 5}),
    )
    sent = site.engine.state()["last"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.5, 5)
    post(site, "/v1/chat/completions", ask("/v1", model="role:cold", max_completion_tokens=4))
    sent = site.engine.state()["last"]
    assert (sent["model"], sent["temperature"]) == (MODEL, 0)
    assert "max_tokens" not in sent


def test_v1_streams_are_the_engines_own_bytes(site: Site) -> None:
    for path in SURFACES[1:]:
        body = ask(path, model=MODEL, stream=True, stream_options={"include_usage": True})
        ours = post(site, path, body).text
        assert ours.endswith("data: [DONE]\n\n")
        assert '"usage":{"prompt_tokens":' in ours
        assert site.engine.state()["last"] == body


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("habit", ["error-after=3", "cut-after=3", "end-after=3", "no-done"])
def test_an_answer_that_breaks_off_says_so(site: Site, path: str, habit: str) -> None:
    site.engine.behave(habit, token_delay=0.01)
    response = post(site, path, ask(path, stream=True))
    last = events(response)[-1]
    assert last["error"]["code"] == "engine_stopped"
    assert "[DONE]" not in response.text
    assert "done" not in [event.get("type") for event in events(response)]


@pytest.mark.parametrize("path", SURFACES)
def test_an_unstreamed_answer_that_breaks_off_is_502(site: Site, path: str) -> None:
    site.engine.behave("error-after=3")
    response = post(site, path, ask(path))
    assert response.status_code == 502
    assert "EngineCore" not in response.text


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_before_the_first_token_have_a_status(site: Site, path: str, stream: bool) -> None:
    for habit, status in (
        ("html", 502),
        ("status=500", 502),
        ("status=503", 503),
        ("status=429", 429),
    ):
        site.engine.behave(habit)
        response = post(site, path, ask(path, stream=stream))
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "code", "param", "request_id"}
        assert "secret" not in response.text


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("habit", ["", "silent"])
def test_a_client_that_leaves_stops_the_engine(
    site: Site, path: str, stream: bool, habit: str
) -> None:
    """While tokens flow, and before the first one; streamed and not."""
    site.engine.behave(*filter(None, [habit]), token_delay=0.02, tokens=1000)
    before = site.engine.state()["aborted"]
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False
    ) as client:
        request = client.build_request("POST", path, json=ask(path, stream=stream))
        leaving = socket.create_connection((request.url.host, request.url.port or 80))
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        leaving.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    site.engine.await_running(1)
    if stream and not habit:
        assert leaving.recv(10)
    leaving.close()
    site.engine.await_abort(before, seconds=1)


def test_no_database_connection_is_held_per_stream(site: Site) -> None:
    """However many there are: only the few threads that answer all requests keep theirs."""
    site.engine.behave(token_delay=0.02, tokens=1000)
    with (
        httpx.Client(base_url=site.url, headers=site.auth, trust_env=False, verify=False) as client,
        contextlib.ExitStack() as streams,
    ):
        for path in SURFACES[:2] * (2 * database.THREADS):
            stream = client.stream("POST", path, json=ask(path, stream=True))
            next(streams.enter_context(stream).iter_raw())
        wait_until(
            lambda: len(open_databases(site)) <= database.THREADS, seconds=1, what="the closing"
        )


def open_databases(site: Site) -> list[Path]:
    """The database of every connection the web server has open."""
    names = []
    for file in Path(f"/proc/{site.web}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(file.readlink())
    return [name for name in names if name.name == "mh.sqlite3"]


def test_a_revoked_token_is_refused_by_the_next_request(site: Site) -> None:
    """On every thread that answers requests: none of them remembers."""
    code = (
        "from accounts.models import User; from accounts.actors import Actor;"
        "from accounts.services import token_create;"
        "user = User.objects.filter(role='standard').first();"
        "token, plain = token_create(actor=Actor.system(), user=user, name='short-lived');"
        "print(token.public_id, plain)"
    )
    public_id, plain = site.manage(code).split()
    auth = {"Authorization": f"Bearer {plain}"}

    def statuses() -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(asked_with, site, auth) for _ in range(16)]
            return {future.result() for future in asked}

    assert statuses() == {200}
    site.manage(
        f"from accounts.models import Token; Token.objects.get(public_id={public_id!r}).delete()"
    )
    assert statuses() == {401}


def asked_with(site: Site, auth: dict[str, str]) -> int:
    path = "/v1/chat/completions"
    return httpx.post(
        site.url + path, headers=auth, json=ask(path), trust_env=False, verify=False
    ).status_code


def test_requests_are_cut_when_their_backend_is_stopped(site: Site) -> None:
    site.engine.behave(token_delay=0.02, tokens=1000)
    broker = redis.Redis(unix_socket_path=str(site.home / "run" / "broker.sock"))
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False
    ) as client:
        body = ask("/api/chat", stream=True)
        with client.stream("POST", "/api/chat", json=body, timeout=10) as response:
            lines = response.iter_lines()
            next(lines)
            broker.set("mh:gate:vllm", "closed", ex=30)
            broker.set("mh:cut:vllm", "cut", ex=30)
            last = [line for line in lines if line][-1]
        refused = post(site, "/v1/chat/completions", ask("/v1"))
        broker.delete("mh:gate:vllm", "mh:cut:vllm")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_stopped"
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "backend_draining")
    assert refused.headers["retry-after"]
    site.engine.behave()
    assert post(site, "/v1/chat/completions", ask("/v1")).status_code == 200


def test_an_engine_that_dies_is_told_and_a_new_one_is_used(site: Site) -> None:
    site.engine.behave("crash-after=3", token_delay=0.02)
    assert streamed(site, "/api/chat")[-1]["error"]["code"] == "engine_stopped"
    site.engine.process.wait(5)
    for path in SURFACES:
        response = post(site, path, ask(path, stream=True))
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_unreachable"
    site.engine.start()
    assert post(site, "/api/chat", ask("/api/chat")).json()["content"] == PARIS


def test_a_slow_client_holds_the_engine_back_and_nothing_else(site: Site) -> None:
    site.engine.behave(tokens=2000)
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False
    ) as client:
        body = ask("/v1", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body, timeout=30):
            answer = post(site, "/v1/chat/completions", ask("/v1", max_tokens=3)).json()
            assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", SURFACES)
def test_bad_requests_are_told_what_is_wrong(site: Site, path: str) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"content": b"{"}, 400, "invalid_json"),
        ({"content": b"[1]"}, 400, "invalid_json"),
        ({"content": b'{"a": NaN}'}, 400, "invalid_json"),
        ({"content": b"\xff"}, 400, "invalid_json"),
        ({"content": b"[" * 100_000}, 400, "invalid_json"),
        ({"content": json.dumps(ask(path, user="\ud83d")).encode()}, 400, "invalid_text"),
        ({"data": {"a": "b"}}, 400, "unsupported_content_type"),
        ({"json": {}}, 400, "missing_field"),
        ({"json": ask(path, model="gpt-9")}, 404, "model_not_found"),
        ({"json": ask(path, model="role:chef")}, 404, "role_not_found"),
        ({"json": ask(path, model="elsewhere")}, 503, "needs_credentials"),
    ]
    for request, status, code in cases:
        response = post(site, path, **request)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code), request
        assert error["request_id"] == response.headers["x-request-id"]


def test_a_huge_body_is_413(site: Site) -> None:
    response = post(site, "/v1/chat/completions", content=b" " * (21 << 20))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_too_long_a_prompt_is_explained(site: Site) -> None:
    long = [{"role": "user", "content": "word " * 3000}]
    for path, stream in (("/api/chat", True), ("/v1/chat/completions", False)):
        response = post(site, path, {"messages": long, "stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert "2048" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/api/chat", "/v1/chat/completions", "/v1/models", "/v1/completions"]
)
def test_wrong_methods_and_unknown_paths_are_json(site: Site, path: str) -> None:
    with httpx.Client(
        base_url=site.url, headers=site.auth, trust_env=False, verify=False
    ) as client:
        response = client.delete(path)
        assert response.status_code == 405
        assert response.headers["allow"] == ("GET" if path == "/v1/models" else "POST")
        assert response.json()["error"]["code"] == "method_not_allowed"
        assert client.get("/v1/nowhere").json()["error"]["code"] == "path_not_found"


@pytest.mark.parametrize("path", [*SURFACES, "/v1/models", f"/v1/models/{MODEL}"])
def test_strangers_get_401_and_guests_403(site: Site, path: str) -> None:
    method = "GET" if "models" in path else "POST"
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        (site.auth_of("guest"), 403),
    ):
        # A body that is no JSON: strangers are not told so.
        response = httpx.request(
            method,
            site.url + path,
            headers=headers,
            content=b"{" if method == "POST" else None,
            trust_env=False,
            verify=False,
        )
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "code", "param", "request_id"}


def test_what_people_say_is_not_in_the_log(site: Site) -> None:
    secret = "xyzzy-plugh"
    for habit in ("", "error-after=1", "status=500", "cut-after=1"):
        site.engine.behave(*filter(None, [habit]))
        for path in ("/api/chat", "/v1/chat/completions"):
            body = {"messages": [{"role": "user", "content": secret}]}
            post(site, path, {**body, "stream": True})
            post(site, path, {**body, "zork": secret, "temperature": 99})
    assert secret not in site.log()
