"""Between the server and the views: request ids, one shape of error, limits, CSRF, static files.

Every middleware here works in both modes. In async mode none of them leaves the event loop unless
the database or a file is needed, so a stream costs no thread, and the cancellation that follows a
client's leaving reaches the view.
"""

import re
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, cast

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware as DjangoAuthentication
from django.contrib.messages.middleware import MessageMiddleware as DjangoMessages
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSession
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.middleware.clickjacking import XFrameOptionsMiddleware as DjangoXFrameOptions
from django.middleware.common import CommonMiddleware as DjangoCommon
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.security import SecurityMiddleware as DjangoSecurity
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_and_async_middleware
from whitenoise.middleware import WhiteNoiseMiddleware

from accounts import requests
from mhsite import errors

Respond = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

REQUEST_ID_HEADER = "X-Request-ID"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


# Request ids


@sync_and_async_middleware
def request_context(get_response: Any) -> Any:
    """Give the request an id, its client's own if it brings a good one, in every log line and answer."""
    if iscoroutinefunction(get_response):

        async def async_middleware(request: HttpRequest) -> HttpResponseBase:
            # Not reset: the context ends with the request's task, and the server's last log line,
            # written after every middleware, has the id too.
            request_id, _ = _begin(request)
            return _finish(await get_response(request), request_id)

        return async_middleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request_id, token = _begin(request)
        try:
            return _finish(get_response(request), request_id)
        finally:
            requests.request_id_reset(token)
            structlog.contextvars.unbind_contextvars("request_id")

    return middleware


def is_request_id(given: str) -> bool:
    """Return whether a client's own request id is taken over."""
    return _REQUEST_ID.fullmatch(given) is not None


def _begin(request: HttpRequest) -> tuple[str, Token[str]]:
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request_id = given if is_request_id(given) else requests.request_id_new()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id, requests.request_id_set(request_id)


def _finish(response: HttpResponseBase, request_id: str) -> HttpResponseBase:
    response.headers[REQUEST_ID_HEADER] = request_id
    return response


# Errors


@sync_and_async_middleware
def errors_as_json(get_response: Any) -> Any:
    """Answer every error on an API path in the one shape; HTML pages keep Django's own."""
    if iscoroutinefunction(get_response):

        async def async_middleware(request: HttpRequest) -> HttpResponseBase:
            early = _too_large(request)
            return errors.in_shape(request, early or await get_response(request))

        middleware: Any = async_middleware
    else:

        def sync_middleware(request: HttpRequest) -> HttpResponseBase:
            early = _too_large(request)
            return errors.in_shape(request, early or get_response(request))

        middleware = sync_middleware
    middleware.process_exception = errors.process_exception
    return middleware


def _too_large(request: HttpRequest) -> HttpResponse | None:
    """Refuse by the announced length; ``mhsite.limits`` does the same before the body is received."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) <= settings.MH_MAX_BODY_BYTES:
        return None
    return errors.response_for(errors.too_large())


def rest_exception(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """Turn whatever a REST view raises into the one error shape (DRF's ``EXCEPTION_HANDLER``)."""
    return errors.rest_exception(exc, context)


# Cross-origin requests


@sync_and_async_middleware
def cors(get_response: Any) -> Any:
    """Let pages of ``MH_CORS_ORIGINS`` use the API with a token. Cookies are never allowed across sites."""
    if iscoroutinefunction(get_response):

        async def async_middleware(request: HttpRequest) -> HttpResponseBase:
            return _allow_origin(request, _preflight(request) or await get_response(request))

        return async_middleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        return _allow_origin(request, _preflight(request) or get_response(request))

    return middleware


def _preflight(request: HttpRequest) -> HttpResponse | None:
    wanted = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or not wanted or not errors.is_api(request):
        return None
    response = HttpResponse(status=204)
    if _origin_is_allowed(request):
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = (
            f"Authorization, Content-Type, Idempotency-Key, {REQUEST_ID_HEADER}"
        )
        response.headers["Access-Control-Max-Age"] = "600"
    return response


def _allow_origin(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if settings.MH_CORS_ORIGINS and errors.is_api(request):
        patch_vary_headers(response, ["Origin"])
        if _origin_is_allowed(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = f"{REQUEST_ID_HEADER}, Retry-After"
    return response


def _origin_is_allowed(request: HttpRequest) -> bool:
    return request.headers.get("Origin") in settings.MH_CORS_ORIGINS


# Django's own, without a thread per step


class _Direct:
    """Call ``process_request`` and ``process_response`` on the event loop: they do no I/O.

    Django sends each of them through a thread in async mode, two hops per middleware and request.
    """

    get_response: Any

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        before = getattr(self, "process_request", None)
        after = getattr(self, "process_response", None)
        response = before(request) if before else None
        response = response or await self.get_response(request)
        return cast("HttpResponseBase", after(request, response) if after else response)


class SecurityMiddleware(_Direct, DjangoSecurity):
    """Django's, on the event loop, and the content security policy (W3C, CSP Level 3) of pages."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Add the headers."""
        if response.headers.get("Content-Type", "").startswith("text/html"):
            policy = settings.CONTENT_SECURITY_POLICY
            response.headers.setdefault("Content-Security-Policy", policy)
        return super().process_response(request, response)


class CommonMiddleware(_Direct, DjangoCommon):
    """Django's, on the event loop."""


class AuthenticationMiddleware(_Direct, DjangoAuthentication):
    """Django's, on the event loop: the user is loaded when first looked at."""


class XFrameOptionsMiddleware(_Direct, DjangoXFrameOptions):
    """Django's, on the event loop."""


def answered(request: HttpRequest, response: HttpResponse) -> HttpResponseBase:
    """Return ``response`` with the headers that depend on nothing but the settings, and on TLS."""
    for kind in (XFrameOptionsMiddleware, SecurityMiddleware):
        kind(lambda _: response).process_response(request, response)
    return _allow_origin(request, response)


class SessionMiddleware(DjangoSession):
    """Django's; a thread is used only where a session is to be saved."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer in async mode."""
        self.process_request(request)
        response = await cast("Respond", self.get_response)(request)
        session = request.session
        if session.modified or settings.SESSION_SAVE_EVERY_REQUEST:
            return await sync_to_async(self._processed)(request, response)
        # Whether it is empty is known without loading it: it was loaded, or there is no cookie.
        if session.accessed or not request.COOKIES.get(settings.SESSION_COOKIE_NAME):
            return self._processed(request, response)
        return response

    def _processed(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        done: HttpResponseBase = self.process_response(request, cast("Any", response))
        return done


class MessageMiddleware(DjangoMessages):
    """Django's, for the pages that show messages; API requests have none."""

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer in async mode."""
        if errors.is_api(request):
            return await cast("Respond", self.get_response)(request)
        return await super().__acall__(request)


class TokenAwareCsrfMiddleware(_Direct, CsrfViewMiddleware):
    """CSRF for those signed in by cookie.

    A request with a bearer token is never signed in by cookie: its session is taken away here, and
    it needs no CSRF token. Nor does an API request without a session cookie: it brings nothing that
    a foreign page could abuse, and shall hear 401, not 403.
    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if self.async_mode:
            # Django asks a coroutine function on the event loop, and any other through a thread.
            self.process_view = self._aprocess_view  # type: ignore[assignment,method-assign]

    def process_request(self, request: HttpRequest) -> None:
        """Take the session away from a request that brings a bearer token."""
        if requests.has_bearer(request):
            request.COOKIES.pop(settings.SESSION_COOKIE_NAME, None)
            request.session = type(request.session)()
        super().process_request(request)

    def process_view(
        self,
        request: HttpRequest,
        callback: Callable[..., HttpResponseBase],
        callback_args: tuple[Any, ...],
        callback_kwargs: dict[str, Any],
    ) -> HttpResponseForbidden | None:
        """Check the CSRF token where a cookie signs in."""
        if requests.has_bearer(request):
            return None
        if errors.is_api(request) and settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return None
        return super().process_view(request, callback, callback_args, callback_kwargs)

    async def _aprocess_view(self, *args: Any) -> HttpResponseForbidden | None:
        return type(self).process_view(self, *args)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a failed CSRF check: in the one shape on API paths, as Django's page elsewhere."""
    return errors.csrf_failure(request, reason)


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # whitenoise has no types
    """WhiteNoise, without making everything behind it synchronous."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self.async_mode = iscoroutinefunction(get_response)
        if self.async_mode:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Serve a static file, or pass the request on."""
        return self._acall(request) if self.async_mode else super().__call__(request)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info.startswith(self.static_prefix):
            found = await sync_to_async(self._file_response, thread_sensitive=False)(request)
            if found is not None:
                return found
        return cast("HttpResponseBase", await self.get_response(request))

    def _file_response(self, request: HttpRequest) -> HttpResponse | None:
        """Return the file whole: Django would buffer a synchronous file iterator anyway."""
        find = self.find_file if self.autorefresh else self.files.get
        static_file = find(request.path_info)
        if static_file is None:
            return None
        served = self.serve(static_file, request)
        response = HttpResponse(b"".join(served.streaming_content), status=served.status_code)
        served.close()
        del response.headers["Content-Type"]
        for name, value in served.items():
            response.headers[name] = value
        return response
