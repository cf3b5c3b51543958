"""The Models page: what is on this machine for each engine, which roles use it, downloads and deletions.

It stands here and not beside the engines because it says which roles a model answers.
"""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

import httpx
from django.http import HttpRequest, HttpResponse

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.pages import Page, changed, only, shown
from accounts.permissions import Permission, is_allowed
from backends import inventory, selectors, services
from backends.engines.base import Engine
from backends.errors import UnknownBackend
from backends.models import Backend, Lane, Operation, OperationKind
from backends.selectors.history import backends_owned
from backends.words import bytes_text, duration_text
from router import registry_payloads
from router.resolution import ACTIVE

#: Operations that are looked at for downloads that have ended, how long ago, and how many are shown.
_LOOKED_AT: Final = 50
_RECENT: Final = timedelta(hours=1)
_ENDED: Final = 5
_PLACES: Final = {
    "hub": "Hugging Face cache",
    "folder": "folder of models",
    "store": "its own store",
}
_WORDS: Final = {
    OperationKind.PULL: ("Downloading", "Download of"),
    OperationKind.DELETE: ("Deleting", "Deletion of"),
}


@only("GET")
def models(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the models on this machine."""
    query = request.GET.get("q", "").strip()[:200]
    mine = [row for row in selectors.backend_list() if _may(actor, row)]
    engines = [found for row in mine if (found := _engine_of(row)) is not None]
    status = selectors.status()
    roles = _RolesOf(actor, status["active"]["backend"] or "")
    groups = [_group(row, engine, status, roles, query) for row, engine in engines]
    context = {
        "query": query,
        "rows": sorted(
            (row for group in groups for row in group["rows"]), key=lambda row: row["id"].lower()
        ),
        "problems": [group["problem"] for group in groups if group["problem"]],
        "pullers": [
            {"name": row.name, "title": engine.title}
            for row, engine in engines
            if engine.capabilities.pull
        ],
        "downloads": list(_downloads({row.name for row in mine})),
    }
    return shown(request, "router/models.html", "Models", context)


def _may(actor: Actor, backend: Backend) -> bool:
    return is_allowed(actor.user, Permission.BACKENDS_OPERATE, backend_owner_id=backend.owner_id)


def _engine_of(row: Backend) -> tuple[Backend, Engine] | None:
    try:
        return row, selectors.backend_engine(row)
    except UnknownBackend:
        return None


class _RolesOf:
    """Which roles a model answers, for the one who looks."""

    def __init__(self, actor: Actor, active: str | None) -> None:
        self._entries = registry_payloads.models(actor.user)
        self._active = active

    def of(self, backend: str, engine: Engine, model: inventory.ModelPayload) -> list[str]:
        """Return the names of the roles in whose chain ``model`` is, by its name or as what is active."""
        found: set[str] = set()
        for entry in self._entries:
            if not entry["model"]:
                is_it = model["loaded"] and entry["provider"] in {backend, ACTIVE}
                is_it = is_it and (entry["provider"] != ACTIVE or backend == self._active)
            else:
                is_it = entry["provider"] in {backend, ACTIVE} and (
                    entry["model"] == model["path"]
                    or engine.is_same_model(model["id"], entry["model"])
                )
            if is_it:
                found.update(entry["roles"])
        return sorted(found)


def _group(
    row: Backend, engine: Engine, status: Any, roles: _RolesOf, query: str
) -> dict[str, Any]:
    """Return the models of one backend, or why they cannot be read."""
    try:
        found = inventory.model_list(row.name, query)
    except (MhError, OSError, httpx.HTTPError, NotImplementedError) as exc:
        said = exc.message if isinstance(exc, MhError) else str(exc)
        return {"rows": [], "problem": f"The models of {engine.title} cannot be read: {said}"}
    serve = _serve_word(row.name, status)
    rows = [
        {
            **model,
            "backend": row.name,
            "title": engine.title,
            "size": bytes_text(model["size_bytes"]) if model["size_bytes"] else "",
            "place": _PLACES.get(model["place"], ""),
            "roles": roles.of(row.name, engine, model),
            "serve": "" if model["loaded"] or model["problem"] else serve,
            "deletable": engine.capabilities.delete and not model["loaded"],
        }
        for model in found
    ]
    return {"rows": rows, "problem": ""}


def _serve_word(name: str, status: Any) -> str:
    """Return what serving a model of backend ``name`` means now."""
    running = [other for other, entry in status["available"].items() if entry["running"]]
    if name in running:
        return "Serve it"
    return "Switch to it" if running else "Start with it"


def _downloads(names: set[str]) -> Iterable[dict[str, Any]]:
    """Yield the downloads and deletions that are open, and the few that ended just now."""
    ended = 0
    for row in selectors.operation_list(limit=_LOOKED_AT):
        if row.lane != Lane.MODELS or row.backend_id not in names:
            continue
        if row.finished_at is not None:
            ended += 1
            if ended > _ENDED or row.finished_at < selectors.now() - _RECENT:
                continue
        yield _download(row)


def _download(row: Operation) -> dict[str, Any]:
    payload = selectors.operation_payload(row)
    present, past = _WORDS.get(OperationKind(row.kind), (row.kind, row.kind))
    is_open = row.finished_at is None
    last = payload["steps"][-1] if payload["steps"] else None
    message = last["message"] if last else ""
    if payload["error"]:
        message = payload["error"]["message"]
    elif is_open and payload["eta_seconds"]:
        message = f"{message} · about {duration_text(payload['eta_seconds'])} left"
    return {
        "id": str(row.pk),
        "what": f"{present if is_open else past} {payload['model'] or ''}",
        "open": is_open,
        "state": row.state,
        "progress": payload["progress"],
        "message": message,
    }


@only("POST")
def pull(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Ask for a model to be downloaded."""
    name, model = request.POST.get("backend", ""), request.POST.get("model", "").strip()
    return _done(
        request,
        lambda: services.model_pull(actor=actor, name=name, model=model),
        f"The download of {model[:200]} was asked for.",
    )


@only("POST")
def delete(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Ask for a model to be deleted."""
    name, model = request.POST.get("backend", ""), request.POST.get("model", "")
    force = request.POST.get("force") == "1"
    return _done(
        request,
        lambda: services.model_delete(actor=actor, name=name, model=model, force=force),
        f"The deletion of {model[:200]} was asked for.",
    )


@only("POST")
def serve(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Have a model served: by the engine that runs, or by switching to its engine."""
    name, model = request.POST.get("backend", ""), request.POST.get("model", "")
    entry = selectors.status()["available"].get(name)
    ask = (
        services.backend_change_model
        if entry is not None and entry["running"]
        else services.backend_switch
    )
    return _done(
        request, lambda: ask(actor=actor, name=name, model=model), f"{model[:200]} was asked for."
    )


@only("POST")
def cancel(request: HttpRequest, actor: Actor, operation_id: str) -> HttpResponse:
    """Cancel a download or a deletion."""
    return _done(
        request,
        lambda: services.operation_cancel(actor=actor, operation_id=str(operation_id)),
        "The operation was asked to stop.",
    )


def _done(request: HttpRequest, run: Callable[[], object], done: str) -> HttpResponse:
    return changed(request, PAGE.url, run, done)


PAGE: Final = Page(
    name="models",
    title="Models",
    path="backends/models/",
    icon="deployed_code",
    section="Models",
    permission=Permission.BACKENDS_OPERATE,
    also_for=backends_owned,
    view=models,
    order=20,
    actions=(
        ("models-pull", "pull", pull),
        ("models-delete", "delete", delete),
        ("models-serve", "serve", serve),
        ("models-cancel", "operations/<uuid:operation_id>/cancel", cancel),
    ),
)
