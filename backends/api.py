"""REST of backends: a view parses, calls one service or selector, and answers."""

from collections.abc import Callable
from typing import Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.lists import ListView, WholePages, query_number
from accounts.permissions import Permission
from accounts.requests import actor_of
from audit import access
from backends import inventory, selectors, serializers, services
from backends.answering import (
    KEY,
    OPERATION,
    WAIT,
    operated,
    parsed,
    query_flag,
    require_operator,
)
from backends.models import Operation

LINES: Final = {"type": "integer", "minimum": 0, "maximum": 5000, "default": 200}


def _start_response(request: Request, name: str, ask: Callable[..., Operation]) -> Response:
    """Ask for a start or restart of the backend as the request's body says."""
    actor = actor_of(request)
    services.operate_check(actor=actor, name=name)
    body = parsed(serializers.StartRequest, request)
    asked = {"name": name, "model": body.get("model"), "options": body.get("options")}
    return operated(request, actor, lambda by: ask(actor=by, **asked))


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
        responses={200: serializers.DetectionsResponse},
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
        request=None, responses=OPERATION, parameters=[WAIT, KEY], operation_id="backend_auto"
    )
    def post(self, request: Request) -> Response:
        """Pick a running engine, else an installed one, vLLM before Ollama; switch to it if it does not run."""
        actor = actor_of(request)
        services.auto_check(actor=actor)
        return operated(request, actor, lambda by: services.backend_auto(actor=by))


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
        parameters=[WAIT, KEY],
        operation_id="backend_start",
    )
    def post(self, request: Request, name: str) -> Response:
        """Start the backend, optionally with another model or other options."""
        return _start_response(request, name, services.backend_start)


class StopView(APIView):
    """Stop a backend."""

    @extend_schema(
        request=None, responses=OPERATION, parameters=[WAIT, KEY], operation_id="backend_stop"
    )
    def post(self, request: Request, name: str) -> Response:
        """Stop the backend: let requests finish, then end every process of the engine."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        return operated(request, actor, lambda by: services.backend_stop(actor=by, name=name))


class RestartView(APIView):
    """Restart a backend."""

    @extend_schema(
        request=serializers.StartRequest,
        responses=OPERATION,
        parameters=[WAIT, KEY],
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
        parameters=[WAIT, KEY],
        operation_id="backend_switch",
    )
    def post(self, request: Request) -> Response:
        """Stop what runs and start the backend, optionally with another model; undone if that fails."""
        named = request.data.get("backend") if isinstance(request.data, dict) else None
        require_operator(request, str(named or ""), Permission.BACKENDS_OPERATE)
        body = parsed(serializers.SwitchRequest, request)
        asked = {"name": body["backend"], "model": body.get("model")}
        return operated(
            request, actor_of(request), lambda by: services.backend_switch(actor=by, **asked)
        )


class ServedModelView(APIView):
    """The model a backend serves."""

    @extend_schema(
        request=serializers.ModelRequest,
        responses=OPERATION,
        parameters=[WAIT, KEY],
        operation_id="backend_change_model",
    )
    def post(self, request: Request, name: str) -> Response:
        """Serve another model, without a restart where the engine can; undone if that fails.

        A backend that does not run is told for its next start.
        """
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.ModelRequest, request)
        asked = {"name": name, "model": body["model"]}
        return operated(request, actor, lambda by: services.backend_change_model(actor=by, **asked))


class ModelsView(ListView):
    """The models on this machine."""

    query = serializers.ModelsQuery
    pagination_class = WholePages

    @extend_schema(
        parameters=[serializers.ModelsQuery],
        responses=serializers.ModelResponse(many=True),
        operation_id="backend_models",
    )
    def get(self, request: Request, name: str) -> Response:
        """List the models on this machine that the backend can serve, and what is wrong with one."""
        require_operator(request, name, Permission.BACKENDS_OPERATE)
        asked = self.asked()
        rows = inventory.model_list(name, asked.get("search", ""))
        for flag in ("loaded", "configured"):
            if flag in asked:
                rows = [row for row in rows if row[flag] is asked[flag]]
        return self.page(rows)

    @extend_schema(
        request=serializers.PullRequest,
        responses=OPERATION,
        parameters=[WAIT, KEY],
        operation_id="backend_pull",
    )
    def post(self, request: Request, name: str) -> Response:
        """Download a model, going on where an earlier download of it ended."""
        actor = actor_of(request)
        services.operate_check(actor=actor, name=name)
        body = parsed(serializers.PullRequest, request)
        asked = {"name": name, "model": body["model"]}
        return operated(request, actor, lambda by: services.model_pull(actor=by, **asked))


class ModelView(APIView):
    """One model on this machine."""

    @extend_schema(
        request=None,
        responses=OPERATION,
        parameters=[
            WAIT,
            KEY,
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
        force = query_flag(request, "force")
        return operated(
            request,
            actor,
            lambda by: services.model_delete(actor=by, name=name, model=model_id, force=force),
        )


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
            OpenApiParameter("lines", LINES, description="how many of the last"),
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
        lines = query_number(request, "lines", 200, 0, 5000)
        start = request.query_params.get("start", "")
        found = selectors.backend_log(name, lines, start=start)
        starts = selectors.backend_starts(name)
        return Response({"backend": name, "lines": found, "starts": starts})
