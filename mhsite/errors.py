"""Whatever goes wrong, in the one shape of the site: ``{"error": {…}}`` (``accounts.errors``)."""

import json
import logging
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.views import csrf
from rest_framework import exceptions
from rest_framework.response import Response

from accounts import errors as mh
from accounts.access import settle
from accounts.requests import current_request_id
from router.ollama_frames import flat_error

logger = logging.getLogger(__name__)

#: Paths for programs; everything else is for browsers.
API_PREFIXES: Final = ("/api/", "/v1/", "/ollama/", "/health", "/metrics")
#: Where errors have the shape that Ollama's clients read.
OLLAMA_API: Final = "/ollama/api/"


def is_api(request: HttpRequest) -> bool:
    """Return whether the path is one for programs, where errors are JSON."""
    return request.path_info.startswith(API_PREFIXES)


def response_for(error: mh.MhError) -> JsonResponse:
    """Return the answer for ``error``: body, status, and the headers that go with it."""
    response = JsonResponse({"error": error.body(current_request_id())}, status=error.status)
    for name, value in _headers(error).items():
        response.headers[name] = value
    return response


def error_body(path: str, error: mh.ErrorBody) -> dict[str, Any]:
    """Return the whole body for ``error`` at ``path``: Ollama's clients read another shape."""
    return flat_error(error) if path.startswith(OLLAMA_API) else {"error": error}


def too_large() -> mh.TooLarge:
    """Return the error for a body above the limit."""
    limit = settings.MH_MAX_BODY_BYTES
    return mh.TooLarge(f"The body is larger than the {limit} bytes this site accepts.")


def from_exception(exc: BaseException) -> mh.MhError:
    """Return the error a client is told about for any exception, logging those nobody foresaw."""
    if isinstance(exc, mh.MhError):
        return exc
    if isinstance(exc, exceptions.APIException):
        return _from_rest(exc)
    known = _from_django(exc)
    if known is not None:
        return known
    logger.error("Unexpected error in request %s", current_request_id(), exc_info=exc)
    return mh.MhError(
        "Something went wrong here. The site's log has the reason under this request id."
    )


def process_exception(request: HttpRequest, exc: Exception) -> HttpResponse | None:
    """Answer what a plain view raised, on API paths; and an ``MhError`` everywhere."""
    settle(exc)
    if isinstance(exc, mh.MhError) or is_api(request):
        return response_for(from_exception(exc))
    return None


def rest_exception(exc: Exception, context: dict[str, Any]) -> Response:
    """Answer what a REST view raised."""
    del context
    settle(exc)
    error = from_exception(exc)
    headers = _headers(error)
    wait = getattr(exc, "wait", None)
    if isinstance(exc, exceptions.Throttled) and wait is not None:
        headers["Retry-After"] = str(max(1, round(wait)))
    return Response(
        {"error": error.body(current_request_id())}, status=error.status, headers=headers
    )


def csrf_failure(request: HttpRequest, reason: str) -> HttpResponse:
    """Answer a failed CSRF check."""
    if not is_api(request):
        return csrf.csrf_failure(request, reason=reason)
    return response_for(_csrf_error(reason))


def in_shape(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return ``response``, or, for an error page on an API path, the same error in the one shape.

    Ollama's clients read another one, and get it.
    """
    if response.status_code < 400 or not is_api(request) or response.streaming:  # noqa: PLR2004
        return response
    shaped = _in_one_shape(request, response)
    return _as_ollamas(shaped) if request.path_info.startswith(OLLAMA_API) else shaped


def _as_ollamas(response: HttpResponseBase) -> HttpResponseBase:
    """Return the same error with its message as ``error``, and our other fields beside it."""
    if not isinstance(response, HttpResponse):
        return response
    error = json.loads(response.content).get("error")
    if isinstance(error, dict):
        response.content = json.dumps(flat_error(error)).encode()
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(len(response.content))
    return response


def _in_one_shape(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if response.headers.get("Content-Type", "").startswith("application/json"):
        return response
    shaped = response_for(_from_status(response.status_code, request))
    for name in ("Allow", "Retry-After", "WWW-Authenticate"):
        if name in response.headers:
            shaped.headers[name] = response.headers[name]
    shaped.cookies = response.cookies
    response.close()
    return shaped


def _headers(error: mh.MhError) -> dict[str, str]:
    headers = {}
    if error.status == mh.NotAuthenticated.status:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return headers


def _csrf_error(reason: str) -> mh.NotAllowed:
    return mh.NotAllowed(
        f"{reason.rstrip('.')}. Send the csrftoken cookie's value as X-CSRFToken, or a bearer "
        "token instead of a session.",
        code="csrf_failed",
    )


# From Django


def _from_django(exc: BaseException) -> mh.MhError | None:
    if isinstance(exc, RequestDataTooBig):
        return too_large()
    if isinstance(exc, Http404):
        return mh.NotFound(str(exc) or "There is nothing here.")
    if isinstance(exc, PermissionDenied):
        return mh.NotAllowed(str(exc) or "You may not do this.")
    if isinstance(exc, BadRequest | SuspiciousOperation | UnreadablePostError):
        return mh.InvalidRequest("The request cannot be understood.")
    if isinstance(exc, RecursionError):
        return mh.InvalidRequest("The JSON is nested too deeply.", code="invalid_json")
    return None


def _from_status(status: int, request: HttpRequest) -> mh.MhError:
    """Return the error for a page Django made itself, of which only the status is known."""
    path, method = request.path_info[:200], request.method
    texts: dict[int, tuple[type[mh.MhError], str, str]] = {
        400: (
            mh.InvalidRequest,
            "invalid_request",
            "The request cannot be understood: check its Host header (MH_ALLOWED_HOSTS).",
        ),
        401: (mh.NotAuthenticated, "not_authenticated", "Sign in, or send a bearer token."),
        403: (mh.NotAllowed, "not_allowed", "You may not do this."),
        404: (mh.NotFound, "path_not_found", f"There is no path {path}; see /api/docs."),
        405: (mh.InvalidRequest, "method_not_allowed", f"{method} is not possible on {path}."),
        413: (mh.TooLarge, "body_too_large", too_large().message),
    }
    kind, code, message = texts.get(
        status,
        (mh.MhError, "internal_error", "Something went wrong here; the site's log has the reason."),
    )
    error = kind(message, code=code)
    error.status = status
    return error


# From Django REST framework


def _from_rest(exc: exceptions.APIException) -> mh.MhError:
    if isinstance(exc, exceptions.ValidationError):
        param, message = _first_problem(exc.detail)
        return mh.Invalid(message, param=param)
    text, code = _text_of(exc), _code_of(exc)
    if isinstance(exc, exceptions.NotAuthenticated):
        return mh.NotAuthenticated("Sign in, or send a bearer token.")
    if isinstance(exc, exceptions.PermissionDenied) and text.startswith("CSRF Failed: "):
        return _csrf_error(text.removeprefix("CSRF Failed: "))
    kinds: tuple[tuple[type[exceptions.APIException], type[mh.MhError], str], ...] = (
        (exceptions.AuthenticationFailed, mh.NotAuthenticated, code),
        (exceptions.PermissionDenied, mh.NotAllowed, "not_allowed"),
        (exceptions.NotFound, mh.NotFound, "not_found"),
        (exceptions.ParseError, mh.InvalidRequest, "invalid_json"),
        (exceptions.Throttled, mh.TooMany, "too_many_requests"),
        (exceptions.MethodNotAllowed, mh.InvalidRequest, "method_not_allowed"),
        (exceptions.UnsupportedMediaType, mh.InvalidRequest, "unsupported_media_type"),
        (exceptions.NotAcceptable, mh.InvalidRequest, "not_acceptable"),
    )
    for rest, ours, our_code in kinds:
        if isinstance(exc, rest):
            error = ours(text, code=our_code)
            break
    else:
        error = mh.MhError(text, code=code)
    error.status = exc.status_code
    return error


def _text_of(exc: exceptions.APIException) -> str:
    _, text = _first_problem(exc.detail)
    return text


def _code_of(exc: exceptions.APIException) -> str:
    code = getattr(exc.detail, "code", None)
    return code if isinstance(code, str) else exc.default_code


def _first_problem(detail: Any, path: tuple[str, ...] = ()) -> tuple[str | None, str]:
    """Return the dotted name of the first field at fault, and its sentence."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            step = () if name == "non_field_errors" else (str(name),)
            return _first_problem(inner, path + step)
    if isinstance(detail, list):
        for index, inner in enumerate(detail):
            if inner:
                step = (str(index),) if isinstance(inner, dict | list) else ()
                return _first_problem(inner, path + step)
    param = ".".join(path) or None
    text = str(detail) if detail else "The request is not valid."
    return param, f"{param}: {text}" if param else text
