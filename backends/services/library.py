"""Downloads and deletions of models asked for. They wait for each other, and for nothing else."""

from typing import Final

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import MhError
from audit.models import Category
from audit.services import event_record
from backends import inventory, selectors
from backends.errors import (
    CannotDo,
    InvalidOptions,
    OperationConflict,
    WorkerUnavailable,
)
from backends.models import (
    OPEN_OPERATION_STATES,
    Backend,
    Lane,
    Operation,
    OperationKind,
)
from backends.services.asking import backend_for, operation_create, refused
from backends.services.repeating import key_keep, operation_repeated

_OTHER: Final = {
    OperationKind.PULL: (OperationKind.DELETE, "being deleted"),
    OperationKind.DELETE: (OperationKind.PULL, "being downloaded"),
}


def model_pull(*, actor: Actor, name: str, model: str, foreground: bool = False) -> Operation:
    """Ask for ``model`` to be downloaded for backend ``name``. Returns at once with the operation.

    Asking for a model that is being downloaded joins that; several models wait for each other.

    Args:
        actor: who asks; needs ``backends:operate``.
        name: the backend.
        model: as the engine's registry calls it.
        foreground: the caller runs the operation itself, so no worker is needed.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, UnknownModel, InvalidOptions, CannotDo,
        OperationConflict, WorkerUnavailable.
    """
    kind = OperationKind.PULL
    backend = backend_for(actor, name, kind)
    try:
        engine, options = selectors.backend_engine(backend), _options(backend, model)
        if not engine.capabilities.pull:
            raise CannotDo(f"{engine.title} cannot download models.")
        engine.check_pull(options, model)
        return _ask(actor, backend, kind, model, foreground=foreground)
    except MhError as exc:
        refused(actor, name, kind, exc.message)
        raise


def model_delete(
    *, actor: Actor, name: str, model: str, force: bool = False, foreground: bool = False
) -> Operation:
    """Ask for ``model`` to be deleted from this machine. Returns at once with the operation.

    Args:
        actor: who asks; needs ``backends:operate``.
        name: the backend.
        model: as the inventory calls it.
        force: also where it is the configured model; never one in memory.
        foreground: the caller runs the operation itself, so no worker is needed.

    Raises:
        As ``model_pull``; ModelInUse, ModelNotOurs.
    """
    kind = OperationKind.DELETE
    backend = backend_for(actor, name, kind)
    try:
        engine, options = selectors.backend_engine(backend), _options(backend, model)
        if not engine.capabilities.delete:
            raise CannotDo(f"{engine.title} cannot delete models.")
        inventory.check_known(backend, model, options)
        inventory.check_unused(backend, model, force=force)
        return _ask(actor, backend, kind, model, foreground=foreground)
    except MhError as exc:
        refused(actor, name, kind, exc.message)
        raise


def _options(backend: Backend, model: str) -> object:
    """Return the backend's options, once ``model`` is known to be a name that can be one of them."""
    try:
        selectors.backend_options(backend, {"model": model})
    except InvalidOptions as exc:
        title = selectors.backend_engine(backend).title
        msg = f"“{model[:80]}” cannot be the name of a model of {title}."
        raise InvalidOptions(msg, param="model") from exc
    return selectors.backend_options(backend)


def _ask(
    actor: Actor, backend: Backend, kind: OperationKind, model: str, *, foreground: bool
) -> Operation:
    if not foreground and not selectors.worker_alive():
        msg = (
            f"No worker of GPU machine {backend.node!r} is running, so models can be neither downloaded "
            "nor deleted. Start the site with: mh up"
        )
        raise WorkerUnavailable(msg, retry_after=5)
    with transaction.atomic():
        return _create_or_join(actor, backend, kind, model)


def _create_or_join(actor: Actor, backend: Backend, kind: OperationKind, model: str) -> Operation:
    backend = Backend.objects.select_for_update().get(pk=backend.pk)
    if made := operation_repeated(actor):
        return made
    engine = selectors.backend_engine(backend)
    about_it = [
        row
        for row in Operation.objects.filter(
            backend=backend, lane=Lane.MODELS, state__in=OPEN_OPERATION_STATES
        ).order_by("created_at")
        if not row.cancel_requested and engine.is_same_model(row.request.get("model", ""), model)
    ]
    for row in about_it:
        if row.kind == kind:
            event_record(
                actor=actor,
                event="operation.joined",
                category=Category.OPERATION,
                target_type="operation",
                target_id=str(row.pk),
                message=f"{kind} {backend.name} {model}",
            )
            key_keep(actor, row)
            return row
    other, doing = _OTHER[kind]
    if in_the_way := [row for row in about_it if row.kind == other]:
        msg = (
            f"{model} is {doing}. Wait for that, or cancel it: "
            f"POST /api/llm-backend/operations/{in_the_way[0].pk}/cancel"
        )
        raise OperationConflict(msg)
    return operation_create(actor, backend, kind, {"model": model}, "")
