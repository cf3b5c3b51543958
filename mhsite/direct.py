"""Which requests are answered by ``router.direct``, without Django's request and middleware, and how they look.

What the middleware would do for them is done here: the request's id, the check of the host, the headers of
every answer, the shape of errors. Everything it does for browsers is left to it.
"""

import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.request import split_domain_port, validate_host

from accounts import requests
from accounts.errors import MhError
from mhsite import errors, middleware
from router import direct
from router.direct import Headers, Receive, Send

Application = Callable[[Any, Receive, Send], Awaitable[None]]

_ID: Final = middleware.REQUEST_ID_HEADER.lower().encode()
_NEEDED: Final = re.compile(rb"\s*bearer\s", re.IGNORECASE)


def direct_first(otherwise: Application) -> Application:
    """Return an ASGI application that gives to ``otherwise`` what it does not answer itself."""

    async def application(scope: Any, receive: Receive, send: Send) -> None:
        found = _plain(scope)
        if found is None:
            await otherwise(scope, receive, send)
            return
        given = found.get(_ID, b"").decode("latin-1")
        request_id = given if middleware.is_request_id(given) else requests.request_id_new()
        # Not reset: the context ends with the request's task.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        requests.request_id_set(request_id)
        headers = [*common_headers(_is_secure(found)), (_ID, request_id.encode())]
        await direct.answer(scope, receive, send, headers=headers, refusal=_refusal)

    return application


def _plain(scope: Any) -> Mapping[bytes, bytes] | None:
    """Return the headers of a request that needs nothing of Django; None for all others."""
    if scope["method"] != "POST" or scope["path"] not in direct.SCHEMAS:
        return None
    headers = dict(scope["headers"])
    is_simple = (
        len(headers) == len(scope["headers"])
        and b"origin" not in headers
        and _NEEDED.match(headers.get(b"authorization", b"")) is not None
        and _host_is_ours(headers.get(b"host", b""), tuple(settings.ALLOWED_HOSTS))
        and (_is_secure(headers) or not settings.SECURE_SSL_REDIRECT)
    )
    return headers if is_simple else None


@functools.lru_cache(maxsize=64)
def _host_is_ours(host: bytes, allowed: tuple[str, ...]) -> bool:
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, allowed)


def _is_secure(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the proxy in front says that the client uses TLS (``SECURE_PROXY_SSL_HEADER``)."""
    return bool(settings.SECURE_PROXY_SSL_HEADER) and (
        headers.get(b"x-forwarded-proto", b"").split(b",")[0].strip() == b"https"
    )


@functools.cache
def common_headers(is_secure: bool) -> Headers:
    """Return what the middleware adds to the answers of these requests: they are all alike."""
    request = HttpRequest()
    request.method, request.path_info = "POST", next(iter(direct.SCHEMAS))
    if is_secure:
        request.META["HTTP_X_FORWARDED_PROTO"] = "https"
    response = middleware.answered(request, HttpResponse(content_type="application/json"))
    del response.headers["Content-Type"]
    return [(name.lower().encode(), value.encode()) for name, value in response.items()]


def _refusal(error: MhError) -> tuple[int, Headers, bytes]:
    response = errors.response_for(error)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    return response.status_code, headers, response.content
