"""The LLM Backend page of the admin site, and the read-only list of operations."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import AdminSite
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from accounts.actors import Actor
from accounts.errors import MhError, NotAllowed
from accounts.permissions import Permission, is_allowed
from accounts.requests import actor_of
from audit import access
from backends import selectors, services
from backends.cards import STEP_WORDS, cards, duration_text, tables
from backends.engines.base import Engine
from backends.errors import UnknownBackend
from backends.models import Backend, Operation, OperationStep

#: Lines of an engine's log that the page shows.
LOG_LINES = 200
_ACTIONS: dict[str, Callable[..., Operation]] = {
    "start": services.backend_start,
    "stop": services.backend_stop,
    "restart": services.backend_restart,
    "switch": services.backend_switch,
}


def page_urls(site: AdminSite) -> list[URLPattern]:
    """Return the paths of the LLM Backend page, for the admin site to include."""

    def page(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        return never_cache(partial(view, site=site))

    base = "backends/llm-backend/"
    return [
        path(base, page(llm_backend), name="llm-backend"),
        path(f"{base}<slug:name>/<slug:action>/", page(operate), name="llm-backend-operate"),
        path(
            f"{base}operations/<uuid:operation_id>/cancel",
            page(cancel),
            name="llm-backend-cancel",
        ),
    ]


@require_GET
def llm_backend(request: HttpRequest, *, site: AdminSite) -> HttpResponse:
    """Show every backend, what runs on it, and a chat box. Whole without JavaScript, live with it."""
    if isinstance(request.user, AnonymousUser):
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    actor = actor_of(request, "admin")
    try:
        access.require(actor, Permission.STATUS_READ)
    except MhError as exc:
        return _refused(request, site, exc)
    return TemplateResponse(request, "backends/llm_backend.html", _context(request, site, actor))


def _context(request: HttpRequest, site: AdminSite, actor: Actor) -> dict[str, Any]:
    status = selectors.status_for(actor, selectors.status())
    rows = {row.name: row for row in selectors.backend_list()}
    operate = {name: _may(actor, Permission.BACKENDS_OPERATE, row) for name, row in rows.items()}
    read_logs = {name: _may(actor, Permission.LOGS_READ, row) for name, row in rows.items()}
    latest = _latest_operations(operate)
    details = {name: row.failure_detail for name, row in rows.items() if operate[name]}
    config = {
        "status": status,
        "operations": latest,
        "mayOperate": operate,
        "mayReadLogs": read_logs,
        "mayChat": is_allowed(actor.user, Permission.CHAT),
        "logLines": LOG_LINES,
        "signInUrl": f"{reverse('admin:login')}?next={request.path}",
        **tables(),
    }
    log_of = request.GET.get("log", "")
    return {
        **site.each_context(request),
        "title": "LLM Backend",
        "cards": cards(
            status,
            latest,
            details,
            installable=[name for name, row in rows.items() if _installs_itself(row)],
            now=selectors.now(),
        ),
        "status": status,
        "may_operate": operate,
        "may_read_logs": read_logs,
        "may_chat": config["mayChat"],
        "log_of": log_of if read_logs.get(log_of) else "",
        "log": _log(actor, rows, log_of),
        "config": config,
    }


def _installs_itself(backend: Backend) -> bool:
    """Return whether the engine brings an installer of its own; a plugin that is gone brings none."""
    try:
        return type(selectors.backend_engine(backend)).install is not Engine.install
    except UnknownBackend:
        return False


def _may(actor: Actor, permission: Permission, backend: Backend) -> bool:
    return is_allowed(actor.user, permission, backend_owner_id=backend.owner_id)


def _latest_operations(may_operate: dict[str, bool]) -> dict[str, Any]:
    """Return the newest operation of each backend, without the engine's own line where it is not theirs."""
    latest: dict[str, Any] = {}
    for row in selectors.operation_list(limit=20):
        if row.backend_id in latest:
            continue
        payload: dict[str, Any] = {**selectors.operation_payload(row)}
        if payload["error"] and not may_operate.get(row.backend_id):
            payload["error"] = {**payload["error"], "detail": ""}
        latest[row.backend_id] = payload
    return latest


def _log(actor: Actor, rows: dict[str, Backend], name: str) -> list[str]:
    """Return the log asked for with ``?log=NAME``: how the page shows it without JavaScript."""
    if name not in rows or not _may(actor, Permission.LOGS_READ, rows[name]):
        return []
    return selectors.backend_log(name, LOG_LINES)


@require_POST
def operate(request: HttpRequest, name: str, action: str, *, site: AdminSite) -> HttpResponse:
    """Start, stop or restart a backend, or switch to it: what the page's buttons do without JavaScript."""
    run = _ACTIONS.get(action)
    if run is None:
        known = ", ".join(_ACTIONS)
        messages.error(request, f"There is no action {action!r}. Actions: {known}.")
        return _back()
    return _change(
        request,
        site,
        lambda actor: run(actor=actor, name=name),
        f"{action.capitalize()} of {name} was requested.",
    )


@require_POST
def cancel(request: HttpRequest, operation_id: str, *, site: AdminSite) -> HttpResponse:
    """Cancel an operation: what the page's cancel button does without JavaScript."""
    return _change(
        request,
        site,
        lambda actor: services.operation_cancel(actor=actor, operation_id=str(operation_id)),
        "The operation was asked to stop.",
    )


def _change(
    request: HttpRequest, site: AdminSite, run: Callable[[Actor], Operation], done: str
) -> HttpResponse:
    """Run a service for the one signed in and go back to the page with its result as a message."""
    if isinstance(request.user, AnonymousUser):
        return redirect_to_login(reverse("admin:llm-backend"), reverse("admin:login"))
    try:
        run(actor_of(request, "admin"))
    except NotAllowed as exc:
        return _refused(request, site, exc)
    except MhError as exc:
        messages.error(request, exc.message)
    else:
        messages.success(request, done)
    return _back()


def _back() -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:llm-backend"))


def _refused(request: HttpRequest, site: AdminSite, exc: MhError) -> HttpResponse:
    """Say in the admin's clothes why the one signed in may not do this."""
    context = {**site.each_context(request), "title": "Not allowed", "message": exc.message}
    return TemplateResponse(request, "backends/refused.html", context, status=exc.status)


class ReadOnly:
    """A model admin that shows, and changes nothing."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody adds rows by hand."""
        del request, obj
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows by hand."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        del request, obj
        return False


_STATE_LABELS = {
    "succeeded": "success",
    "done": "success",
    "running": "info",
    "failed": "danger",
    "rolled_back": "warning",
    "cancelled": "warning",
}


class OperationStepInline(ReadOnly, TabularInline):
    """The steps of an operation, in the order they were taken."""

    model = OperationStep
    verbose_name_plural = "Steps"
    fields = readonly_fields = ("step", "state", "message", "began", "took")
    extra = 0
    can_delete = False
    hide_title = True

    @admin.display(description="Step")
    def step(self, step: OperationStep) -> str:
        """Return what the step does, in words."""
        return STEP_WORDS.get(step.name, step.name.capitalize())

    @admin.display(description="Began")
    def began(self, step: OperationStep) -> str:
        """Return when it began, to the second."""
        return _moment(step.started_at)

    @admin.display(description="Took")
    def took(self, step: OperationStep) -> str:
        """Return how long the step took."""
        return _span(step)


@admin.register(Operation)
class OperationAdmin(ReadOnly, ModelAdmin):
    """What was asked of the engines, by whom, and how it went."""

    list_display = ("asked", "what", "outcome", "took", "by", "reason")
    list_filter = ("state", "kind", "backend")
    search_fields = ("id", "request_id", "requested_by_name")
    ordering = ("-created_at",)
    list_per_page = 50
    inlines = (OperationStepInline,)
    fields = readonly_fields = (
        "what",
        "state",
        "reason",
        "detail",
        "by",
        "source_address",
        "request_id",
        "asked",
        "began",
        "ended",
        "took",
    )

    @admin.display(description="Asked", ordering="created_at")
    def asked(self, operation: Operation) -> str:
        """Return when it was asked, to the second."""
        return _moment(operation.created_at)

    @admin.display(description="Began")
    def began(self, operation: Operation) -> str:
        """Return when a worker took it up."""
        return _moment(operation.started_at)

    @admin.display(description="Ended")
    def ended(self, operation: Operation) -> str:
        """Return when it ended."""
        return _moment(operation.finished_at)

    @admin.display(description="Operation", ordering="kind")
    def what(self, operation: Operation) -> str:
        """Return what was asked of which backend."""
        return f"{operation.get_kind_display()} {operation.backend_id}"

    @display(description="State", ordering="state", label=_STATE_LABELS)
    def outcome(self, operation: Operation) -> tuple[str, str]:
        """Return the state, coloured."""
        return operation.state, operation.get_state_display()

    @admin.display(description="Took")
    def took(self, operation: Operation) -> str:
        """Return how long it took from start to end."""
        return _span(operation)

    @admin.display(description="By", ordering="requested_by_name")
    def by(self, operation: Operation) -> str:
        """Return who asked, as they were called then."""
        return operation.requested_by_name

    @admin.display(description="Reason")
    def reason(self, operation: Operation) -> str:
        """Return why it did not succeed."""
        return str((operation.error or {}).get("message", ""))

    @admin.display(description="Engine's own line")
    def detail(self, operation: Operation) -> str:
        """Return the line of the engine's log that says why."""
        return str((operation.error or {}).get("detail", ""))


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def _span(row: Operation | OperationStep) -> str:
    if row.started_at is None or row.finished_at is None:
        return ""
    return duration_text((row.finished_at - row.started_at).total_seconds())
