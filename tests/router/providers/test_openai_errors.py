import json

import aiohttp
import httpx
import pytest

from accounts.errors import MhError
from router.errors import ContextTooLong
from router.providers.openai_errors import refusal_error, stream_error, transport_error


def refused(status: int, message: str = "", param: str | None = None) -> MhError:
    body = {
        "error": {"message": message, "type": "BadRequestError", "param": param, "code": status}
    }
    return refusal_error(status, json.dumps(body).encode())


@pytest.mark.parametrize(("least", "count"), [("", 3008), ("at least ", 0)])
def test_too_long_a_prompt_says_the_limit_and_the_count(least: str, count: int) -> None:
    error = refused(
        400,
        f"This model's maximum context length is 2048 tokens. However, your prompt contains {least}"
        "3008 input tokens, which exceeds this limit even without any output tokens.",
        "input_tokens",
    )
    assert isinstance(error, ContextTooLong)
    # What is only a lower bound is said, and is not taken for the count.
    assert (error.count, error.limit) == (count, 2048)
    assert (
        error.message
        == f"The prompt has {least}3008 tokens; the model takes 2048 in all. Shorten the messages."
    )


def test_too_long_a_prompt_without_numbers_is_still_a_sentence() -> None:
    assert refused(400, "too long", "input_text").message == (
        "The prompt is too long for the model. Shorten the messages."
    )


def test_max_tokens_beyond_the_context_is_named() -> None:
    error = refused(400, "max_tokens=9999 cannot be greater than max_model_len=2048.", "max_tokens")
    assert (error.code, error.param) == ("max_tokens_too_large", "max_tokens")


def test_a_plain_refusal_is_passed_on_and_one_with_insides_is_not() -> None:
    assert "top_p must be in (0, 1]" in refused(400, "top_p must be in (0, 1], got 0").message
    for message in (
        "No such file /root/models/x",
        "Traceback (most recent call last)",
        "in foo.py",
    ):
        assert refused(400, message).message == "The engine did not accept the request."


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        (401, 502, "upstream_refused_key"),
        (403, 502, "upstream_refused_key"),
        (404, 404, "model_not_found"),
        (429, 429, "too_many_requests"),
        (500, 502, "upstream_failed"),
        (503, 503, "engine_unavailable"),
    ],
)
def test_each_status_has_its_error_and_the_insides_stay_inside(
    status: int, ours: int, code: str
) -> None:
    error = refused(status, "secret /home/x")
    assert (error.status, error.code) == (ours, code)
    assert "secret" not in error.message


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"error": "Unauthorized"}', b"[1]", b'{"detail": []}']
)
def test_any_body_of_a_refusal_is_read(body: bytes) -> None:
    assert refusal_error(500, body).status == 502
    assert refusal_error(400, body).status == 400


def test_retry_after_is_passed_on_within_bounds() -> None:
    assert refusal_error(429, b"", retry_after="7").retry_after == 7
    assert refusal_error(429, b"", retry_after="99999").retry_after == 120
    assert refusal_error(429, b"", retry_after="tomorrow").retry_after is None


def test_a_transport_error_is_told_by_its_cause() -> None:
    def mapped(cause: Exception, *, begun: bool = False) -> str:
        error = httpx.ConnectTimeout("")
        error.__cause__ = cause
        return transport_error(error, begun=begun).code

    assert mapped(ConnectionRefusedError()) == "engine_unreachable"
    assert mapped(aiohttp.ServerDisconnectedError()) == "engine_stopped"
    assert mapped(aiohttp.ConnectionTimeoutError()) == "upstream_timed_out"
    assert mapped(ConnectionRefusedError(), begun=True) == "engine_stopped"


def test_a_client_error_in_a_stream_keeps_its_kind() -> None:
    assert stream_error({"message": "bad grammar", "code": 400}).status == 400
    assert stream_error("boom").code == "engine_stopped"
