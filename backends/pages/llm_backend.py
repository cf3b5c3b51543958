"""The LLM Backend page: every backend, what runs on it, what it is configured to be, and a chat box."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.pages import Page, changed, only, sections_of, shown
from accounts.permissions import Permission, is_allowed
from backends import selectors, services
from backends.cards import cards, tables
from backends.errors import ConfigurationMoved, InvalidOptions, UnknownBackend
from backends.models import Backend, Operation
from backends.pages import configuration
from backends.pages.option_form import OptionsForm
from backends.pages.startup import engine_missing, first_run, startup_context, startup_save

#: Lines of an engine's log that the page shows.
LOG_LINES = 200
_ACTIONS: dict[str, Callable[..., Operation]] = {
    "start": services.backend_start,
    "stop": services.backend_stop,
    "restart": services.backend_restart,
    "switch": services.backend_switch,
    "install": services.engine_install,
    "apply": services.backend_apply,
}


@only("GET")
def llm_backend(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show every backend. Whole without JavaScript, live with it."""
    return shown(request, "backends/llm_backend.html", "LLM Backend", _context(request, actor))


def _context(
    request: HttpRequest,
    actor: Actor,
    form: OptionsForm | None = None,
    moved: dict[str, Any] | None = None,
    name: str = "",
) -> dict[str, Any]:
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
    tabs = [row for name, row in rows.items() if operate[name]]
    chosen = name or configuration.chosen_of(request, [row.name for row in tabs])
    part = None
    if chosen:
        form = form or configuration.form_of(rows[chosen], _gpus(status))
        plan = "plan" in request.GET
        part = configuration.context_of(rows[chosen], form, moved=moved, plan=plan)
        config["configuration"] = configuration.config_of(rows[chosen], form)
    may_install = is_allowed(actor.user, Permission.BACKENDS_OPERATE)
    missing = [
        engine_missing(row, status["available"][name])
        for name, row in rows.items()
        if operate[name] and not status["available"][name]["installed"]
    ]
    return {
        "tabs": [{"name": row.name, "title": selectors.backend_engine(row).title} for row in tabs],
        "part": part,
        "startup": startup_context(actor, list(rows.values())),
        "first_run": first_run(status, tabs, may_install=may_install),
        "missing": {each["name"]: each for each in missing},
        "may_install": may_install,
        "sections": sections_of("llm-backend", request, actor),
        "cards": cards(
            status,
            latest,
            details,
            installable=[name for name, row in rows.items() if _installs_itself(row)],
            now=selectors.now(),
            starts={name: row.instance_id or row.last_instance_id for name, row in rows.items()},
        ),
        "status": status,
        "may_operate": operate,
        "may_read_logs": read_logs,
        "may_chat": config["mayChat"],
        "log_of": log_of if read_logs.get(log_of) else "",
        "log": _log(actor, rows, log_of),
        "config": config,
    }


def _gpus(status: dict[str, Any]) -> tuple[int, ...]:
    return tuple(gpu["index"] for gpu in status["gpus"] if gpu["index"] is not None)


def _installs_itself(backend: Backend) -> bool:
    """Return whether the engine brings an installer of its own; a plugin that is gone brings none."""
    try:
        return selectors.backend_engine(backend).installs_itself
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


@only("POST")
def configure(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    """Save the options that the form was sent with: what the page's form does without JavaScript."""
    services.operate_check(actor=actor, name=name)
    backend = selectors.backend_get(name)
    gpus = _gpus(selectors.status_for(actor, selectors.status()))
    began = _revision(request)
    at = configuration.values_at(backend, began) if began != backend.revision else None
    given = {} if at is None else {"at": at}
    form = configuration.form_of(backend, gpus, request.POST, **given)
    if form.is_valid():
        try:
            services.backend_configure(actor=actor, name=name, options=form.changes, revision=began)
        except ConfigurationMoved:
            return _moved(request, actor, backend, form, began or 0)
        except InvalidOptions as exc:
            option = (exc.param or "").removeprefix("options.")
            form.add_error(option if option in form.fields else None, exc.message)
        else:
            return _saved(request, actor, name, changes=bool(form.changes))
    return _again(request, actor, backend, form, status=422)


def _revision(request: HttpRequest) -> int | None:
    said = request.POST.get("revision", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else None  # noqa: PLR2004


def _saved(request: HttpRequest, actor: Actor, name: str, *, changes: bool) -> HttpResponse:
    back = f"{PAGE.url}?{urlencode({'backend': name})}#configuration"
    done = "The options are saved." if changes else "Nothing was changed."
    if "apply" not in request.POST or not selectors.backend_is_running(selectors.backend_get(name)):
        messages.success(request, done)
        return HttpResponseRedirect(back)
    run = lambda: services.backend_apply(actor=actor, name=name)  # noqa: E731 — one call
    return changed(request, back, run, f"{done} They are being applied.")


def _moved(
    request: HttpRequest, actor: Actor, backend: Backend, sent: OptionsForm, began: int
) -> HttpResponse:
    """Show the options of now with what was changed in the form on top, and who changed what."""
    backend.refresh_from_db()
    merged = {**selectors.backend_config(backend)["options"], **_shown_changes(sent)}
    form = configuration.form_of(backend, sent.gpus, at=merged)
    moved = configuration.changes_since(backend, form, began)
    return _again(request, actor, backend, form, status=409, moved=moved)


def _shown_changes(form: OptionsForm) -> dict[str, Any]:
    """Return the changes with defaults said aloud; a secret has to be written again."""
    defaults = {field.name: field.default for field in form.described if not field.secret}
    return {
        name: defaults[name] if value is None else value
        for name, value in form.changes.items()
        if name in defaults
    }


def _again(
    request: HttpRequest,
    actor: Actor,
    backend: Backend,
    form: OptionsForm,
    *,
    status: int,
    moved: dict[str, Any] | None = None,
) -> HttpResponse:
    context = _context(request, actor, form, moved, backend.name)
    answer = shown(request, "backends/llm_backend.html", "LLM Backend", context)
    answer.status_code = status
    return answer


@only("POST")
def restore(request: HttpRequest, actor: Actor, name: str, number: int) -> HttpResponse:
    """Go back to a revision of the options: what the history's buttons do without JavaScript."""
    services.operate_check(actor=actor, name=name)
    try:
        services.backend_restore(actor=actor, name=name, number=number, revision=_revision(request))
    except (ConfigurationMoved, InvalidOptions) as exc:
        messages.error(request, exc.message)
        return HttpResponseRedirect(f"{PAGE.url}?{urlencode({'backend': name})}#revisions")
    return _saved(request, actor, name, changes=True)


@only("POST")
def startup(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Say what happens when the site comes up."""
    return changed(
        request,
        f"{PAGE.url}#startup",
        lambda: startup_save(actor, request.POST),
        "The start-up behaviour is saved.",
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
        ("llm-backend-startup", "startup/", startup),
        ("llm-backend-configure", "<slug:name>/options/", configure),
        ("llm-backend-restore", "<slug:name>/options/<int:number>/restore/", restore),
        ("llm-backend-operate", "<slug:name>/<slug:action>/", operate),
        ("llm-backend-cancel", "operations/<uuid:operation_id>/cancel", cancel),
    ),
)
