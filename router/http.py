"""What the plain async views have in common: bodies in, errors out."""

import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponseBase, JsonResponse, UnreadablePostError

from accounts.errors import InvalidRequest, TooLarge
from accounts.requests import current_request_id
from accounts.texts import halves_check
from router.errors import MethodNotAllowed

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]
_JSON = "application/json"


def methods(*allowed: str) -> Callable[[View], View]:
    """Answer every other method with 405, as JSON, with the ``Allow`` header."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        async def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method in allowed:
                return await view(request, *args, **kwargs)
            error = MethodNotAllowed(request.method or "", allowed)
            body = {"error": error.body(current_request_id())}
            return JsonResponse(body, status=error.status, headers={"Allow": ", ".join(allowed)})

        return checked

    return decorate


def json_body(request: HttpRequest, *, any_type: bool = False) -> tuple[bytes, dict[str, Any]]:
    """Return the body's bytes and the JSON object they hold; with ``any_type`` whatever they are called.

    Raises:
        TooLarge: the body is larger than ``MH_MAX_BODY_BYTES``.
        InvalidRequest: it is not a JSON object.
    """
    raw = _raw_body(request)
    return raw, json_object(raw, "" if any_type else request.content_type or "")


def json_object(raw: bytes, content_type: str) -> dict[str, Any]:
    """Return the JSON object that a body holds.

    Raises:
        InvalidRequest: it is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != _JSON and not kind.endswith("+json"):
        raise InvalidRequest(
            f"Send JSON, with the header Content-Type: {_JSON} (this was {kind[:80]}).",
            code="unsupported_content_type",
        )
    try:
        # ``parse_constant``: NaN and Infinity are no JSON, and engines refuse them later.
        data = json.loads(raw, parse_constant=_no_constant)
        raw.decode()
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not JSON: {_reason(exc)}.", code="invalid_json") from exc
    if not isinstance(data, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    halves_check(raw, data)
    return data


def _raw_body(request: HttpRequest) -> bytes:
    limit = settings.MH_MAX_BODY_BYTES
    try:
        raw = request.body
    except RequestDataTooBig as exc:
        raise _too_large(limit) from exc
    except UnreadablePostError as exc:
        raise InvalidRequest("The body broke off.", code="invalid_json") from exc
    if len(raw) > limit:
        raise _too_large(limit)
    return raw


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit} bytes this site accepts.")


def _reason(exc: Exception) -> str:
    """Say where it breaks, without a word of the body."""
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at line {exc.lineno} column {exc.colno}"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is nested too deeply" if isinstance(exc, RecursionError) else "a number is too long"


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is no JSON"
    raise json.JSONDecodeError(msg, "", 0)
