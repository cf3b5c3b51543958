"""REST of operations: their history, one of them, and its cancelling."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.lists import FilteredListView
from accounts.permissions import Permission
from accounts.requests import actor_of
from audit import access
from backends import selectors, serializers, services
from backends.answering import OPERATION, WAIT, operation_response, wait_seconds
from backends.filters import OperationFilters
from backends.models import Operation


class OperationsView(FilteredListView):
    """The history of operations."""

    queryset = Operation.objects.none()
    filterset_class = OperationFilters

    @extend_schema(
        responses=serializers.OperationResponse(many=True),
        operation_id="operations",
        tags=["operations"],
    )
    def get(self, request: Request) -> Response:
        """Return operations, newest first."""
        access.require(actor_of(request), Permission.BACKENDS_OPERATE, target_type="operation")
        return self.page(selectors.operations(), selectors.operation_payload)


class OperationView(APIView):
    """One operation."""

    @extend_schema(
        responses={200: serializers.OperationResponse},
        parameters=[WAIT],
        operation_id="operation",
        tags=["operations"],
    )
    def get(self, request: Request, operation_id: str) -> Response:
        """Return one operation; with ``?wait=`` as soon as it has ended."""
        access.require(
            actor_of(request),
            Permission.BACKENDS_OPERATE,
            target_type="operation",
            target_id=operation_id[:80],
        )
        row = selectors.operation_wait(operation_id, wait_seconds(request))
        return Response(selectors.operation_payload(row))


class OperationCancelView(APIView):
    """Cancel an operation."""

    @extend_schema(
        request=None,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="operation_cancel",
        tags=["operations"],
    )
    def post(self, request: Request, operation_id: str) -> Response:
        """Ask the operation to stop; what it did is undone. One that has ended is returned as it is."""
        actor = actor_of(request)
        access.require(
            actor,
            Permission.BACKENDS_OPERATE,
            target_type="operation",
            target_id=operation_id[:80],
            backend_owner_id=selectors.operation_backend_owner_id(operation_id),
        )
        wait = wait_seconds(request)
        row = services.operation_cancel(actor=actor, operation_id=operation_id)
        return operation_response(row, wait)
