"""What the views of backends share: parameters of requests, and answers with an operation."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import status as http
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.errors import Invalid
from accounts.permissions import Permission
from accounts.requests import actor_of
from audit import access
from backends import selectors, serializers
from backends.models import OPEN_OPERATION_STATES, Operation

#: Longest ``?wait=``, in seconds.
WAIT_MAX = 900

WAIT = OpenApiParameter(
    "wait", OpenApiTypes.FLOAT, description=f"seconds to wait for the end, at most {WAIT_MAX}"
)
OPERATION = {200: serializers.OperationResponse, 202: serializers.OperationResponse}


def query_number(request: Request, name: str, default: int, most: int) -> int:
    """Return a whole number from the query, 0 to ``most``."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError as exc:
        msg = f"{name} must be a whole number from 0 to {most}."
        raise Invalid(msg, param=name) from exc
    if not 0 <= value <= most:
        msg = f"{name} must be from 0 to {most}."
        raise Invalid(msg, param=name)
    return value


def wait_seconds(request: Request) -> float:
    """Return ``?wait=``."""
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
    """Return a switch from the query, off by default."""
    text = request.query_params.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        msg = f"{name} must be true or false."
        raise Invalid(msg, param=name)
    return text in {"true", "1"}


def operation_response(row: Operation, wait: float) -> Response:
    """Answer 200 with an operation that has ended within ``wait`` seconds, else 202."""
    row = selectors.operation_wait(str(row.pk), wait)
    running = row.state in OPEN_OPERATION_STATES
    return Response(
        selectors.operation_payload(row),
        status=http.HTTP_202_ACCEPTED if running else http.HTTP_200_OK,
        headers={"Location": f"/api/llm-backend/operations/{row.pk}"},
    )


def require_operator(request: Request, name: str, permission: Permission) -> None:
    """Check permission for reading one backend's inner matters."""
    access.require(
        actor_of(request),
        permission,
        target_type="backend",
        target_id=name[:80],
        backend_owner_id=selectors.backend_owner_id(name),
    )


def parsed(serializer_class: type[serializers.StrictSerializer], request: Request) -> Any:
    """Return the body, checked; an error names the key."""
    serializer = serializer_class(data=request.data)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data
