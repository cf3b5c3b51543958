"""Errors of OpenAI-compatible engines, mapped once to ours. What an engine says of its insides stays here."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx

from accounts.errors import (
    InvalidRequest,
    MhError,
    NotFound,
    TooMany,
    Unavailable,
    UpstreamFailed,
    UpstreamTimedOut,
)
from router.errors import (
    ContextTooLong,
    EngineStopped,
    EngineUnreachable,
    ProviderRefused,
    too_long,
)

#: What the HTTP client raises when the other side is away or breaks off. httpx-aiohttp maps some of
#: aiohttp's own errors, wrongly in places, and lets others through: the cause is what counts.
TRANSPORT_ERRORS = (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError)

#: Longest refusal of an engine that is read, in bytes.
REFUSAL_MAX = 64 * 1024
_CLIENT_ERRORS = range(400, 500)
_TEXT_MAX = 400
#: Longest ``Retry-After`` that is passed on, in seconds.
_RETRY_MAX = 120
_LIMIT = re.compile(r"maximum context length is (\d+)")
_COUNT = re.compile(r"(?:contains|resulted in|requested) (at least )?(\d+) (?:input )?tokens")
#: Paths, tracebacks and Python names have no business with a client.
_INSIDES = re.compile(r"(?:/[\w.\-]+){2,}|Traceback|\.py\b|\b0x[0-9a-f]{6,}|\w+\.\w+\.\w+\(")
#: OpenAI's code in a 429 that waiting does not help.
_QUOTA = b'"insufficient_quota"'
#: What OpenAI's reasoning models say to ``max_tokens``.
_INSTEAD = "Use 'max_completion_tokens' instead"
#: The status that OpenAI's codes and types stand for, where an error frame has no number.
_STATUS_OF = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "slow_down": 429,
    "server_is_overloaded": 503,
}
_NO_EMBEDDINGS = re.compile(r"not support\w*\W+(?:the )?embed", re.IGNORECASE)
_TOO_LONG_PARAMS = {"input_tokens", "input_text"}


def transport_error(exc: Exception, *, begun: bool) -> MhError:
    """Return our error for one of ``TRANSPORT_ERRORS``; ``begun`` once the engine has started to answer."""
    cause = exc.__cause__ or exc
    if begun:
        return EngineStopped("The engine stopped before the answer was complete. Try again.")
    if isinstance(cause, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return EngineStopped("The engine closed the connection without an answer. Try again.")
    if isinstance(cause, aiohttp.ClientConnectorError | ConnectionRefusedError):
        return EngineUnreachable("The engine does not answer at its address. Is it still running?")
    if isinstance(cause, TimeoutError | httpx.TimeoutException):
        return UpstreamTimedOut("The engine did not accept a connection in time. Try again.")
    return EngineStopped("The connection to the engine broke. Try again.")


def stream_error(error: object) -> MhError:
    """Return our error for an ``error`` frame in a stream that had begun under HTTP 200."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {}
    status = _status(fields)
    if status in _CLIENT_ERRORS or status == HTTPStatus.SERVICE_UNAVAILABLE:
        return refusal_error(status, json.dumps({"error": fields}).encode())
    return EngineStopped("The engine failed while it was answering. Try again.")


def _status(fields: Mapping[str, Any]) -> int:
    """Return the status an error frame stands for; 500 where it does not say."""
    for key in ("code", "http_status_code", "type"):
        value = fields.get(key)
        if isinstance(value, int):
            return value
        if isinstance(value, str) and value in _STATUS_OF:
            return _STATUS_OF[value]
    return 500


def refusal_error(status: int, body: bytes, *, retry_after: str = "") -> MhError:
    """Return our error for an answer of the engine that is not 200."""
    message, param = _read(body)
    if needs_owner := _owners_business(status, body):
        return needs_owner
    if status in {400, 413, 422}:
        return _bad_request(message, param)
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(
            "The engine does not know this model any more. Look at /v1/models.",
            code="model_not_found",
            param="model",
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooMany(
            "The engine has too much to do. Try again in a moment.",
            retry_after=_seconds(retry_after),
        )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(
            "The engine cannot answer now. Try again in a moment.",
            code="engine_unavailable",
            retry_after=_seconds(retry_after),
        )
    return UpstreamFailed("The engine failed to answer. Its log has the reason.")


def _owners_business(status: int, body: bytes) -> MhError | None:
    """Return the error for what only the site's owner can mend; None where it is nothing of that kind."""
    if status == HTTPStatus.PAYMENT_REQUIRED or _QUOTA in body:
        return ProviderRefused(
            "The provider's credits are used up. The site's owner must add some, or name another provider.",
            code="provider_credits_used_up",
        )
    if status in {401, 403}:
        return ProviderRefused(
            "The engine refused the site's own key. Its owner must check the backend's settings.",
        )
    return None


def has_no_embeddings(status: int, body: bytes) -> bool:
    """Say whether a refusal of ``/v1/embeddings`` means that what is served makes none.

    vLLM serving a chat model has no such path (404 with ``detail``, as for any unknown one); other
    servers, and other versions, say so in words.
    """
    message, param = _read(body)
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return param != "model" and "model" not in message.lower()
    return status in {400, 501} and bool(_NO_EMBEDDINGS.search(message))


def _read(body: bytes) -> tuple[str, str]:
    """Return message and param of an error body in any of the shapes engines use."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = data.get("error", data.get("detail", data)) if isinstance(data, dict) else data
    if isinstance(error, str):
        return error, ""
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("message") or ""), str(error.get("param") or "")


def _bad_request(message: str, param: str) -> MhError:
    limit = _LIMIT.search(message)
    if param in _TOO_LONG_PARAMS or (limit and param != "max_tokens"):
        return _too_long(message, limit[1] if limit else "")
    if _INSTEAD in message:
        return InvalidRequest(
            "This model takes max_completion_tokens, not max_tokens.",
            code="unsupported_parameter",
            param="max_tokens",
        )
    if param in {"max_tokens", "max_completion_tokens"} or "max_tokens" in message:
        return InvalidRequest(
            "max_tokens is more than the model's context leaves room for. Ask for fewer.",
            code="max_tokens_too_large",
            param="max_tokens",
        )
    if not message or _INSIDES.search(message):
        return InvalidRequest(
            "The engine did not accept the request.", code="refused_by_engine", param=param or None
        )
    text = " ".join(message.split())[:_TEXT_MAX]
    return InvalidRequest(
        f"The engine did not accept the request: {text}",
        code="refused_by_engine",
        param=param or None,
    )


def _too_long(message: str, limit: str) -> ContextTooLong:
    count = _COUNT.search(message)
    return too_long(
        int(count[2]) if count else 0, int(limit or 0), at_least=bool(count and count[1])
    )


def _seconds(header: str) -> int | None:
    return min(int(header), _RETRY_MAX) if re.fullmatch(r"\d{1,9}", header) else None
