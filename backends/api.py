"""REST of backends: a view parses, calls one service or selector, and answers."""

from collections.abc import Callable

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.permissions import Permission
from accounts.requests import actor_of
from audit import access
from backends import inventory, selectors, serializers, services
from backends.answering import (
    OPERATION,
    WAIT,
    operation_response,
    parsed,
    query_flag,
    query_number,
    require_operator,
    wait_seconds,
)
from backends.models import Operation


def _start_response(request: Request, name: str, ask: Callable[..., Operation]) -> Response:
    """Ask for a start or restart of the backend as the request's body says."""
    actor = actor_of(request)
    services.operate_check(actor=actor, name=name)
    body = parsed(serializers.StartRequest, request)
    wait = wait_seconds(request)
    row = ask(actor=actor, name=name, model=body.get("model"), options=body.get("options"))
    return operation_response(row, wait)


class StatusView(APIView):
    """The state of everything."""

    @extend_schema(responses=serializers.StatusResponse, operation_id="status")
    def get(self, request: Request) -> Response:
        """Return the state of backends, the running operation and the GPUs."""
        actor = actor_of(request)
        access.require(actor, Permission.STATUS_READ)
        return Response(selectors.status_for(actor, selectors.status()))


class DetectView(APIView):
    """What is installed."""

    @extend_schema(
        responses={200: OpenApiTypes.OBJECT},
        operation_id="detect",
    )
    def get(self, request: Request) -> Response:
        """Say for every engine whether it is installed and running, its version, and why not."""
        actor = actor_of(request)
        access.require(actor, Permission.STATUS_READ)
        return Response(selectors.detect_for(actor, selectors.detect()))


class AutoView(APIView):
    """The backend picked by rule."""

    @extend_schema(
        request=None, responses=OPERATION, parameters=[WAIT], operation_id="backend_auto"
    )
    def post(self, request: Request) -> Response:
        """Pick a running engine, else an installed one, vLLM before Ollama; switch to it if it does not run."""
        actor = actor_of(request)
        services.auto_check(actor=actor)
        wait = wait_seconds(request)
        return operation_response(services.backend_auto(actor=actor), wait)


class StartupView(APIView):
    """What happens when the site comes up."""

    @extend_schema(responses=serializers.StartupResponse, operation_id="startup")
    def get(self, request: Request) -> Response:
        """Return the start-up behaviour, the active backend, and which backends are started by themselves."""
        services.startup_check(actor=actor_of(request))
        return Response(selectors.startup())

    @extend_schema(
        request=serializers.StartupRequest,
        responses={200: serializers.StartupResponse},
        operation_id="startup_set",
    )
    def patch(self, request: Request) -> Response:
        """Change the start-up behaviour, or which backends are started by themselves."""
        actor = actor_of(request)
        services.startup_check(actor=actor)
        body = parsed(serializers.StartupRequest, request)
        services.startup_set(actor=actor, **body)
        return Response(selectors.startup())


class StartView(APIView):
    """Start a backend."""

    @extend_schema(
        request=serializers.StartRequest,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="backend_start",
    )
    def post(self, request: Request, name: str) -> Response:
        """Start the backend, optionally with another model or other options."""
        return _start_response(request, name, services.backend_start)


class StopView(APIView):
    """Stop a backend."""

    @extend_schema(
        request=None, responses=OPERATION, parameters=[WAIT], operation_id="backend_stop"
    )
    def post(self, request: Request, name: str) -> Response:
        """Stop the backend: let requests finish, then end every process of the engine."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        wait = wait_seconds(request)
        return operation_response(services.backend_stop(actor=actor, name=name), wait)


class RestartView(APIView):
    """Restart a backend."""

    @extend_schema(
        request=serializers.StartRequest,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="backend_restart",
    )
    def post(self, request: Request, name: str) -> Response:
        """Stop and start the backend, optionally with another model or other options."""
        return _start_response(request, name, services.backend_restart)


class SwitchView(APIView):
    """Move the GPU to another backend."""

    @extend_schema(
        request=serializers.SwitchRequest,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="backend_switch",
    )
    def post(self, request: Request) -> Response:
        """Stop what runs and start the backend, optionally with another model; undone if that fails."""
        named = request.data.get("backend") if isinstance(request.data, dict) else None
        require_operator(request, str(named or ""), Permission.BACKENDS_OPERATE)
        body = parsed(serializers.SwitchRequest, request)
        wait = wait_seconds(request)
        row = services.backend_switch(
            actor=actor_of(request), name=body["backend"], model=body.get("model")
        )
        return operation_response(row, wait)


class ServedModelView(APIView):
    """The model a backend serves."""

    @extend_schema(
        request=serializers.ModelRequest,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="backend_change_model",
    )
    def post(self, request: Request, name: str) -> Response:
        """Serve another model, without a restart where the engine can; undone if that fails.

        A backend that does not run is told for its next start.
        """
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.ModelRequest, request)
        wait = wait_seconds(request)
        row = services.backend_change_model(actor=actor, name=name, model=body["model"])
        return operation_response(row, wait)


class ModelsView(APIView):
    """The models on this machine."""

    @extend_schema(responses=serializers.ModelListResponse, operation_id="backend_models")
    def get(self, request: Request, name: str) -> Response:
        """List the models on this machine that the backend can serve, and what is wrong with one."""
        require_operator(request, name, Permission.BACKENDS_OPERATE)
        return Response({"results": inventory.model_list(name)})

    @extend_schema(
        request=serializers.PullRequest,
        responses=OPERATION,
        parameters=[WAIT],
        operation_id="backend_pull",
    )
    def post(self, request: Request, name: str) -> Response:
        """Download a model, going on where an earlier download of it ended."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.PullRequest, request)
        wait = wait_seconds(request)
        row = services.model_pull(actor=actor, name=name, model=body["model"])
        return operation_response(row, wait)


class ModelView(APIView):
    """One model on this machine."""

    @extend_schema(
        request=None,
        responses=OPERATION,
        parameters=[
            WAIT,
            OpenApiParameter(
                "force", OpenApiTypes.BOOL, description="also where it is the configured model"
            ),
        ],
        operation_id="backend_model_delete",
    )
    def delete(self, request: Request, name: str, model_id: str) -> Response:
        """Delete a model that is not in use. Its name may have slashes and colons in it."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        wait, force = wait_seconds(request), query_flag(request, "force")
        row = services.model_delete(actor=actor, name=name, model=model_id, force=force)
        return operation_response(row, wait)


class PlanView(APIView):
    """Does it fit?"""

    @extend_schema(
        request=serializers.StartRequest,
        responses={200: serializers.PlanResponse},
        parameters=[
            OpenApiParameter(
                "problems",
                OpenApiTypes.BOOL,
                description="tell what is wrong with the model or an option as `problems` of an unknown plan",
            )
        ],
        operation_id="backend_plan",
    )
    def post(self, request: Request, name: str) -> Response:
        """Say whether the backend would fit, with the numbers and what would help; changes nothing."""
        require_operator(request, name, Permission.BACKENDS_OPERATE)
        body = parsed(serializers.StartRequest, request)
        plan = (
            selectors.backend_plan_or_problems
            if query_flag(request, "problems")
            else selectors.backend_plan
        )
        return Response(plan(name, body.get("model"), body.get("options")).payload())


class LogsView(APIView):
    """The engine's log."""

    @extend_schema(
        responses=serializers.LogResponse,
        parameters=[
            OpenApiParameter("lines", OpenApiTypes.INT, description="at most 5000"),
            OpenApiParameter(
                "start",
                OpenApiTypes.STR,
                description="id of a start; the current one by default, else the one before it",
            ),
        ],
        operation_id="backend_logs",
    )
    def get(self, request: Request, name: str) -> Response:
        """Return the last lines of a start's log, and which starts there are."""
        require_operator(request, name, Permission.LOGS_READ)
        lines = query_number(request, "lines", 200, 5000)
        start = request.query_params.get("start", "")
        found = selectors.backend_log(name, lines, start=start)
        starts = selectors.backend_starts(name)
        return Response({"backend": name, "lines": found, "starts": starts})


class OperationsView(APIView):
    """The history of operations."""

    @extend_schema(
        responses=serializers.OperationListResponse,
        parameters=[
            OpenApiParameter("limit", OpenApiTypes.INT, description="at most 500"),
            OpenApiParameter("offset", OpenApiTypes.INT),
        ],
        operation_id="operations",
    )
    def get(self, request: Request) -> Response:
        """Return operations, newest first."""
        access.require(actor_of(request), Permission.BACKENDS_OPERATE, target_type="operation")
        limit = query_number(request, "limit", 50, 500)
        offset = query_number(request, "offset", 0, 1_000_000)
        rows = selectors.operation_list(limit, offset)
        results = [selectors.operation_payload(row) for row in rows]
        return Response({"results": results, "limit": limit, "offset": offset})


class OperationView(APIView):
    """One operation."""

    @extend_schema(
        responses={200: serializers.OperationResponse},
        parameters=[WAIT],
        operation_id="operation",
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
        request=None, responses=OPERATION, parameters=[WAIT], operation_id="operation_cancel"
    )
    def post(self, request: Request, operation_id: str) -> Response:
        """Ask the operation to stop; what it did is undone."""
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
