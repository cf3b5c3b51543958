import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.engines.base import Metrics, Target
from backends.engines.vllm import VllmEngine, VllmOptions
from backends.engines.vllm.client import read_metrics
from backends.errors import StartFailed

RECORDED = Path(__file__).parents[1] / "metrics.txt"
ENGINE = VllmEngine()
TOKEN = {"choices": [{"message": {"content": "Yes"}}], "usage": {"completion_tokens": 1}}

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Target]]:
    """Answer each path with a status and a body: JSON, bytes as they are, or a function to call."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers, **target: Any) -> Target:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = answers.get(self.path, (404, {"detail": "Not Found"}))
                body = body(self) if callable(body) else body
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return Target(endpoint=f"http://127.0.0.1:{server.server_port}", **target)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def models(*names: str) -> tuple[int, Any]:
    return 200, {"data": [{"id": name} for name in names]}


def ready(target: Target) -> bool:
    return ENGINE.is_ready(target, timeout=2)


def test_ready_is_healthy_and_serving_the_expected_model(serve) -> None:
    target = serve({"/health": (200, b""), "/v1/models": models("mine")}, served_model="mine")
    assert ready(target)
    assert ENGINE.is_healthy(target, timeout=2)
    assert ENGINE.loaded_model(target, timeout=2) == "mine"


def test_a_server_with_another_model_is_not_ready(serve) -> None:
    assert not ready(serve({"/health": (200, b""), "/v1/models": models("x")}, served_model="mine"))


def test_ready_waits_for_its_lora_modules(serve) -> None:
    options = VllmOptions(loraModules=({"name": "sql", "path": "/x"},))
    without = {"/health": (200, b""), "/v1/models": models("mine")}
    assert not ready(serve(without, served_model="mine", options=options))
    both = {"/health": (200, b""), "/v1/models": models("mine", "sql")}
    assert ready(serve(both, served_model="mine", options=options))


@pytest.mark.parametrize(
    "answers",
    [
        {"/health": (503, b""), "/v1/models": models("mine")},
        {"/health": (200, b"")},
        {"/health": (200, b""), "/v1/models": (401, {"error": "Unauthorized"})},
        {"/health": (200, b""), "/v1/models": (200, b"<html>")},
        {"/health": (200, b""), "/v1/models": (200, [])},
        {"/health": (200, b""), "/v1/models": (200, {"data": [{"name": "mine"}]})},
    ],
)
def test_any_other_answer_is_not_ready(serve, answers: Answers) -> None:
    assert not ready(serve(answers, served_model="mine"))


def test_nobody_listening_is_simply_not_ready() -> None:
    target = Target(endpoint="http://127.0.0.1:1", served_model="mine")
    assert not ready(target)
    assert not ENGINE.is_healthy(target, timeout=1)
    with pytest.raises(httpx.HTTPError):
        ENGINE.loaded_model(target, timeout=1)


def test_a_silent_server_costs_no_more_than_the_time_out(serve) -> None:
    release = threading.Event()
    target = serve({"/health": (200, lambda _: release.wait(5) and b"")}, served_model="mine")
    started = time.monotonic()
    assert not ENGINE.is_ready(target, timeout=0.1)
    assert time.monotonic() - started < 2
    release.set()


def test_proxies_of_the_environment_never_see_the_engines_traffic(
    serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ENGINE.is_healthy(serve({"/health": (200, b"")}), timeout=2)


def test_the_key_is_sent(serve) -> None:
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> Any:
        seen.append(handler.headers.get("Authorization"))
        return models("mine")[1]

    target = serve({"/v1/models": (200, answer)}, api_key="secret-key")
    ENGINE.loaded_model(target, timeout=2)
    assert seen == ["Bearer secret-key"]


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ({"version": "0.32.0"}, "0.32.0"),
        ({"version": "0.32.0+cpu"}, "0.32.0"),
        ({}, ""),
        ([], ""),
        (b"?", ""),
    ],
)
def test_version(serve, body: Any, version: str) -> None:
    assert ENGINE.version(serve({"/version": (200, body)}), timeout=2) == version


def test_warm_up_chats_one_token(serve) -> None:
    ENGINE.warm_up(serve({"/v1/chat/completions": (200, TOKEN)}), timeout=2)


def test_a_model_without_a_chat_template_is_warmed_by_a_completion(serve) -> None:
    answers = {
        "/v1/chat/completions": (400, {"error": {"message": "no chat template"}}),
        "/v1/completions": (200, TOKEN),
    }
    ENGINE.warm_up(serve(answers), timeout=2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"error": {"message": "boom"}}),
        (401, {"error": "Unauthorized"}),
        (200, {"choices": [], "usage": {"completion_tokens": 0}}),
        (200, {"choices": [{}], "usage": None}),
        (200, {"error": {"message": "boom"}}),
        (200, b"boom"),
    ],
)
def test_a_wrong_first_answer_is_an_error_with_the_engines_words(
    serve, status: int, body: Any
) -> None:
    with pytest.raises(StartFailed) as caught:
        ENGINE.warm_up(serve({"/v1/chat/completions": (status, body)}), timeout=2)
    assert caught.value.detail


def test_recorded_metrics_are_read(serve) -> None:
    target = serve({"/metrics": (200, RECORDED.read_bytes())})
    found = ENGINE.metrics(target, timeout=2)
    assert (found.running, found.waiting, found.kv_cache_usage) == (0, 0, 0.0)
    assert found.prompt_tokens_total == 70.0
    assert found.generation_tokens_total == 9.0
    assert found.asleep is False
    assert found.kv_cache_tokens == 46592
    assert found.finished["stop"] == 1
    assert found.ttft_seconds is not None
    assert 0 < found.ttft_seconds < 5
    assert found.inter_token_seconds is not None
    assert found.first_tokens_total
    assert found.first_token_seconds_total == pytest.approx(
        found.ttft_seconds * found.first_tokens_total
    )


def test_metrics_of_several_engines_add_up_and_one_asleep_is_asleep() -> None:
    text = r"""
# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="a\"}b"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0
vllm:engine_sleep_state{engine="0",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="1",sleep_state="awake"} 0.0
vllm:engine_sleep_state{engine="1",sleep_state="weights_offloaded"} 1.0
"""
    found = read_metrics(text)
    assert found.running == 5
    assert found.asleep is True


@pytest.mark.parametrize("text", ["", "garbage", "vllm:num_requests_running", "<html>"])
def test_metrics_that_say_nothing(text: str) -> None:
    assert read_metrics(text) == Metrics()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "x.y"])
def test_a_value_that_is_no_count_is_none(value: str) -> None:
    assert read_metrics(f"vllm:num_requests_running {value}").running is None
