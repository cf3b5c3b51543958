"""REST of what a backend is configured to be: options and their revisions; and its installation."""

import re
from collections.abc import Callable
from typing import Any, Final

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.lists import ListView
from accounts.permissions import Permission
from accounts.requests import actor_of
from backends import selectors, serializers, services
from backends.answering import (
    KEY,
    OPERATION,
    WAIT,
    keyed,
    operated,
    parsed,
    require_operator,
    wait_seconds,
)
from backends.models import Backend

#: An ETag of ours, perhaps made weak on its way here; ``*`` and nothing match every revision.
_ETAG: Final = re.compile(r'(?:\*|(?:W/)?"([0-9]{1,9})")?')
_IF_MATCH: Final = OpenApiParameter(
    "If-Match",
    {"type": "string", "pattern": f"^{_ETAG.pattern}$"},
    OpenApiParameter.HEADER,
    description="the ETag the options were read with; 409 where somebody has changed them since",
)


class ConfigView(APIView):
    """The options of a backend."""

    @extend_schema(responses=serializers.ConfigResponse, operation_id="backend_config")
    def get(self, request: Request, name: str) -> Response:
        """Return the options, their schema, and which secrets are set. The ETag is the revision."""
        require_operator(request, name, Permission.BACKENDS_OPERATE)
        backend = selectors.backend_get(name)
        return Response(selectors.backend_config(backend), headers=_etag(backend))

    @extend_schema(
        request=serializers.ConfigRequest,
        responses={200: serializers.ConfigResponse},
        parameters=[WAIT, KEY, _IF_MATCH],
        operation_id="backend_configure",
    )
    def patch(self, request: Request, name: str) -> Response:
        """Change options; with ``apply`` what runs gets them, restarted only where one needs that.

        With the ``revision`` that they were read at, or ``If-Match``, it is refused when somebody else has
        changed them since.
        """
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.ConfigRequest, request)
        by, revision = keyed(request, actor), _revision(request, body)

        def change() -> None:
            if body["options"] or revision is not None:
                services.backend_configure(
                    actor=by, name=name, options=body["options"], revision=revision
                )

        return _changed(request, by, name, change, apply=body["apply"])


class RevisionsView(ListView):
    """How the options came to be what they are."""

    @extend_schema(
        responses=serializers.RevisionResponse(many=True), operation_id="backend_revisions"
    )
    def get(self, request: Request, name: str) -> Response:
        """Return the revisions of the options, newest first. Of secrets only that they changed."""
        require_operator(request, name, Permission.BACKENDS_OPERATE)
        self.asked()
        rows = selectors.revisions(selectors.backend_get(name))
        return self.page(rows, selectors.revision_payload)


class RestoreView(APIView):
    """Back to a revision."""

    @extend_schema(
        request=serializers.RestoreRequest,
        responses={200: serializers.ConfigResponse},
        parameters=[WAIT, KEY, _IF_MATCH],
        operation_id="backend_restore",
    )
    def post(self, request: Request, name: str, number: int) -> Response:
        """Put the options back to what they were at a revision, as a new one; secrets stay as they are."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.RestoreRequest, request)
        by, revision = keyed(request, actor), _revision(request, body)

        def change() -> None:
            services.backend_restore(actor=by, name=name, number=number, revision=revision)

        return _changed(request, by, name, change, apply=body["apply"])


class InstallView(APIView):
    """The engine itself."""

    @extend_schema(
        request=None,
        responses=OPERATION,
        parameters=[WAIT, KEY],
        operation_id="backend_install",
    )
    def post(self, request: Request, name: str) -> Response:
        """Install the engine on its machine, going on where an earlier installation ended."""
        actor = actor_of(request)
        services.install_check(actor=actor, name=name)
        return operated(request, actor, lambda by: services.engine_install(actor=by, name=name))


def _changed(
    request: Request, by: Actor, name: str, change: Callable[[], None], *, apply: bool
) -> Response:
    """Change the options, have what runs get them where that is asked, and answer with both.

    What came before with the same key is not done again.
    """
    wait = wait_seconds(request)
    row = services.operation_repeated(by)
    if row is None:
        change()
        if apply and selectors.backend_is_running(selectors.backend_get(name)):
            row = services.operation_once(
                actor=by, ask=lambda: services.backend_apply(actor=by, name=name)
            )
    backend = selectors.backend_get(name)
    answer: dict[str, Any] = selectors.backend_config(backend)
    if row is not None:
        row = selectors.operation_wait(str(row.pk), wait)
        answer["operation"] = selectors.operation_payload(row)
    return Response(answer, headers=_etag(backend))


def _etag(backend: Backend) -> dict[str, str]:
    return {"ETag": f'"{backend.revision}"'}


def _revision(request: Request, body: dict[str, Any]) -> int | None:
    """Return the revision that the request was made from; None where it does not say."""
    said = _ETAG.fullmatch(request.headers.get("If-Match", "").strip())
    if said is None:
        msg = 'If-Match must be an ETag of the options, "7", or *.'
        raise Invalid(msg, param="If-Match")
    named = body.get("revision")
    if said[1] is None:
        return named
    revision = int(said[1])
    if named not in {None, revision}:
        msg = "revision and If-Match name two different revisions. Send one of them."
        raise Invalid(msg, param="revision", code="two_revisions")
    return revision
