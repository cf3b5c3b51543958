"""Is the site alive, is it ready, and what can it do: health, schema, documentation."""

import logging
from collections.abc import Callable
from typing import Final

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.templatetags.static import static
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularSwaggerSplitView
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.response import Response

from backends import bus, selectors

logger = logging.getLogger(__name__)


#: Stricter than the site's: no styles in the page either. It shows icons that stand in its style sheet.
DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


class DocsView(SpectacularSwaggerSplitView):
    """The API's description as a page; its script is a request of its own."""

    template_name = "mhsite/api_docs.html"

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """Return the page, or with `?script` its script."""
        response: Response = super().get(request)  # type: ignore[no-untyped-call]
        response.data["own_css"] = static("mh/api-docs.css")
        response.headers["Content-Security-Policy"] = DOCS_POLICY
        return response


@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Answer 200 as long as the process serves requests."""
    del request
    return JsonResponse({"status": "ok"})


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 when everything a request may need is there, else 503 and what is not.

    Open to everybody, so it names parts and says nothing about them but *ok* and *failed*.
    """
    del request
    checks = {name: _outcome(name, check) for name, check in _CHECKS.items()}
    good = all(outcome == "ok" for outcome in checks.values())
    body = {"status": "ok" if good else "failed", "checks": checks}
    return JsonResponse(body, status=200 if good else 503)


def _outcome(name: str, check: Callable[[], bool]) -> str:
    try:
        good = check()
    except (OSError, RedisError):
        good = False
    except Exception:  # the boundary: whatever a driver raises, the answer is "failed"
        logger.exception("Readiness check %s failed", name)
        good = False
    return "ok" if good else "failed"


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


def _broker() -> bool:
    return bus.broker_alive()


def _worker() -> bool:
    return bool(selectors.worker_alive())


_CHECKS: Final[dict[str, Callable[[], bool]]] = {
    "database": _database,
    "broker": _broker,
    "worker": _worker,
}
