"""What Hugging Face's proxy, router and containers refuse, as our errors."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from accounts.errors import InvalidRequest, MhError, NotFound, TooMany, Unavailable, UpstreamFailed
from router.errors import ContextTooLong, EngineStopped, ProviderRefused
from router.providers.openai_errors import refusal_error
from router.providers.retry_after import wait_asked

#: TGI's error types. Source: text-generation-inference, ``InferError::error_type`` and its statuses.
_STATUS_OF: Final = {
    "validation": 422,
    "template_error": 422,
    "tool_error": 422,
    "generation": 424,
    "overloaded": 429,
    "incomplete_generation": 500,
    "healthcheck": 503,
}
_SUM: Final = re.compile(r"must be <= (\d+)\. Given: (\d+) `inputs` tokens")
_INPUTS: Final = re.compile(r"must have less than (\d+) tokens\. Given: (\d+)")


#: What the proxy of an Inference Endpoint answers while no replica is ready; 502 in earlier years.
_LOADING: Final = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})
_NO_ROUTE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class Loading(Unavailable):
    """No replica of the endpoint is ready: it has scaled to zero, or loads its model."""

    code = "engine_loading"


class NoChatRoute(NotFound):
    """The endpoint has no chat completions, or no template for them."""

    code = "path_not_found"


def refused(status: int, body: bytes, headers: Mapping[str, str]) -> MhError:
    """Return the error for an answer that is not 200, of proxy, router or container."""
    fields = _fields(body)
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ProviderRefused(
            "Hugging Face refused the site's token. The site's owner must check it, and its rights."
        )
    if status == HTTPStatus.BAD_REQUEST and (error := _bad_request(body)):
        return error
    if error := _no_chat(status, body, fields):
        return error
    if status in _LOADING and fields.get("error_type") != "healthcheck":
        return Loading("The model at Hugging Face is not ready yet. Try again in a minute.")
    if isinstance(fields.get("error_type"), str):
        return tgi_error(fields, wait=wait_asked(headers))
    return refusal_error(status, body, retry_after=wait_asked(headers))


def tgi_error(fields: Mapping[str, Any], *, wait: str = "", begun: bool = False) -> MhError:
    """Return the error for TGI's ``{error, error_type}``: the body of a refusal, or a frame of a stream.

    Args:
        wait: seconds to wait, as ``Retry-After`` has them.
        begun: whether a part of the answer has come.
    """
    message = str(fields.get("error") or "")
    kind = str(fields.get("error_type") or "")
    status = _STATUS_OF.get(kind, 500)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return _too_long(message) or _invalid(message)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooMany(
            "The endpoint has too much to do. Try again in a moment.",
            retry_after=int(wait) if wait else None,
        )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Unavailable(
            "The endpoint cannot answer now. Try again in a moment.", code="engine_unavailable"
        )
    if begun or kind == "incomplete_generation":
        return EngineStopped("The endpoint stopped before the answer was complete. Try again.")
    return UpstreamFailed("The endpoint failed to answer. Its log at Hugging Face has the reason.")


def still_loading(seconds: int) -> Unavailable:
    """Return the error for an endpoint that was not ready within ``seconds``."""
    return Unavailable(
        f"The endpoint at Hugging Face was not ready within {seconds} s (scaleUpTimeout). Try again later.",
        code="engine_loading",
    )


def _bad_request(body: bytes) -> MhError | None:
    text = body.decode(errors="replace")
    if "Invalid state" in text:
        return ProviderRefused(
            "The endpoint is paused. The site's owner must resume it at Hugging Face.",
            code="endpoint_paused",
        )
    if "not supported by any provider" in text:
        return NotFound(
            "No provider that the Hugging Face account has enabled serves this model.",
            code="model_not_found",
            param="model",
        )
    return None


def _no_chat(status: int, body: bytes, fields: Mapping[str, Any]) -> NoChatRoute | None:
    missing = status in _NO_ROUTE and b"model" not in body
    if missing or fields.get("error_type") == "template_error":
        return NoChatRoute(
            "The endpoint at Hugging Face has no chat completions. Its owner can set api to tgi."
        )
    return None


def _too_long(message: str) -> ContextTooLong | None:
    found = _SUM.search(message) or _INPUTS.search(message)
    if found is None:
        return None
    return ContextTooLong(
        f"The prompt has {found[2]} tokens; the model takes {found[1]} in all, the answer included. Shorten the messages.",
        param="messages",
    )


def _invalid(message: str) -> InvalidRequest:
    body = json.dumps({"error": {"message": message}}).encode()
    error = refusal_error(HTTPStatus.UNPROCESSABLE_ENTITY, body)
    return error if isinstance(error, InvalidRequest) else InvalidRequest(error.message)


def _fields(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
