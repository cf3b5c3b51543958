"""What the REST views of backends have in common: queries, keys, and answers that are operations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from drf_spectacular.utils import OpenApiParameter
from rest_framework import status as http
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.permissions import Permission
from accounts.request_keys import HEADER, request_key_of
from accounts.requests import actor_of
from accounts.strict import StrictSerializer
from audit import access
from backends import selectors, serializers, services
from backends.models import OPEN_OPERATION_STATES, Operation

#: Longest ``?wait=``, in seconds.
WAIT_MAX: Final = 900

WAIT: Final = OpenApiParameter(
    "wait",
    {"type": "number", "minimum": 0, "maximum": WAIT_MAX, "default": 0},
    description="seconds to wait for the end",
)
KEY: Final = OpenApiParameter(
    HEADER,
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[!#-\[\]-~]{1,255}$"},
    OpenApiParameter.HEADER,
    description="a name of the request's own, a UUID: sent again within 24 hours, the same request gets "
    "the same operation; 422 `idempotency_key_reused` for another request",
)
OPERATION: Final = {200: serializers.OperationResponse, 202: serializers.OperationResponse}


def wait_seconds(request: Request) -> float:
    """Return how long the one who asks will wait for an operation's end."""
    text = request.query_params.get("wait")
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError as exc:
        msg = "wait must be a number of seconds."
        raise Invalid(msg, param="wait") from exc
    if not 0 <= seconds <= WAIT_MAX:
        msg = f"wait must be from 0 to {WAIT_MAX} seconds."
        raise Invalid(msg, param="wait")
    return seconds


def query_flag(request: Request, name: str) -> bool:
    """Return a query that is true or false; false where it is not given."""
    text = request.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        msg = f"{name} must be true or false."
        raise Invalid(msg, param=name)
    return text in {"true", "1"}


def parsed(serializer_class: type[StrictSerializer], request: Request) -> Any:
    """Return the body, checked."""
    serializer = serializer_class(data=request.data)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


def require_operator(request: Request, name: str, permission: Permission) -> None:
    """Check permission for reading one backend's inner matters."""
    access.require(
        actor_of(request),
        permission,
        target_type="backend",
        target_id=name[:80],
        backend_owner_id=selectors.backend_owner_id(name),
    )


def keyed(request: Request, actor: Actor) -> Actor:
    """Return ``actor`` with the request's ``Idempotency-Key``, if it brings one."""
    return replace(actor, request_key=request_key_of(request))


def operated(request: Request, actor: Actor, ask: Callable[[Actor], Operation]) -> Response:
    """Answer with the operation that ``ask`` makes, or made when the same request came before."""
    wait = wait_seconds(request)
    actor = keyed(request, actor)
    row = services.operation_once(actor=actor, ask=lambda: ask(actor))
    return operation_response(row, wait)


def operation_response(row: Operation, wait: float) -> Response:
    """Answer 200 with an operation that has ended within ``wait`` seconds, else 202."""
    row = selectors.operation_wait(str(row.pk), wait)
    running = row.state in OPEN_OPERATION_STATES
    return Response(
        selectors.operation_payload(row),
        status=http.HTTP_202_ACCEPTED if running else http.HTTP_200_OK,
        headers={"Location": f"/api/llm-backend/operations/{row.pk}"},
    )
