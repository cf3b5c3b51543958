"""The LLM Backend page: every backend, what runs on it, and a chat box."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.pages import Page, changed, only, shown
from accounts.permissions import Permission, is_allowed
from backends import selectors, services
from backends.cards import cards, tables
from backends.engines.base import Engine
from backends.errors import UnknownBackend
from backends.models import Backend, Operation

#: Lines of an engine's log that the page shows.
LOG_LINES = 200
_ACTIONS: dict[str, Callable[..., Operation]] = {
    "start": services.backend_start,
    "stop": services.backend_stop,
    "restart": services.backend_restart,
    "switch": services.backend_switch,
}


@only("GET")
def llm_backend(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show every backend. Whole without JavaScript, live with it."""
    return shown(request, "backends/llm_backend.html", "LLM Backend", _context(request, actor))


def _context(request: HttpRequest, actor: Actor) -> dict[str, Any]:
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
        **tables(),
    }
    log_of = request.GET.get("log", "")
    return {
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


@only("POST")
def operate(request: HttpRequest, actor: Actor, name: str, action: str) -> HttpResponse:
    """Start, stop or restart a backend, or switch to it: what the page's buttons do without JavaScript."""
    return changed(
        request,
        PAGE.url,
        lambda: _action(action)(actor=actor, name=name),
        f"{action.capitalize()} of {name} was requested.",
    )


def _action(name: str) -> Callable[..., Operation]:
    if name not in _ACTIONS:
        known = ", ".join(_ACTIONS)
        raise Invalid(f"There is no action {name!r}. Actions: {known}.", param="action")
    return _ACTIONS[name]


@only("POST")
def cancel(request: HttpRequest, actor: Actor, operation_id: str) -> HttpResponse:
    """Cancel an operation: what the page's cancel button does without JavaScript."""
    return changed(
        request,
        PAGE.url,
        lambda: services.operation_cancel(actor=actor, operation_id=str(operation_id)),
        "The operation was asked to stop.",
    )


PAGE = Page(
    name="llm-backend",
    title="LLM Backend",
    path="backends/llm-backend/",
    icon="memory",
    section="System",
    permission=Permission.STATUS_READ,
    view=llm_backend,
    order=10,
    actions=(
        ("llm-backend-operate", "<slug:name>/<slug:action>/", operate),
        ("llm-backend-cancel", "operations/<uuid:operation_id>/cancel", cancel),
    ),
)
