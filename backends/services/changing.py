"""Changes of what runs: another model, the options as they are configured, memory given back."""

from typing import Any, Final

from django.conf import settings
from django.db import transaction

from accounts.actors import Actor
from audit.models import Category
from audit.services import event_record
from backends import selectors
from backends.errors import InvalidOptions, OperationConflict, PreflightFailed
from backends.lifecycle import State
from backends.models import (
    OPEN_OPERATION_STATES,
    Backend,
    Operation,
    OperationKind,
    OperationState,
    OperationStep,
    StepState,
)
from backends.services.asking import backend_for, operation_ask, refused
from backends.services.configuration import backend_configure_as
from backends.services.recording import ended_event
from backends.services.repeating import key_keep, operation_repeated
from backends.services.rows import operation_publish

#: States in which a change is only configured: a parked backend does not get the GPU by it.
_OFF: Final = frozenset({State.STOPPED, State.FAILED, State.PARKED})


def backend_change_model(
    *, actor: Actor, name: str, model: str, foreground: bool = False
) -> Operation:
    """Ask for backend ``name`` to serve ``model``, without a restart where its engine can.

    Where it fails, the model before is served again. A backend that does not run is only told for
    its next start: the operation has ended then.

    Raises:
        As ``backend_start``; PreflightFailed where it does not run and does not have the model.
    """
    backend = backend_for(actor, name, OperationKind.CHANGE_MODEL)
    waiting = Operation.objects.filter(backend=backend, state__in=OPEN_OPERATION_STATES)
    if State(backend.state) not in _OFF or waiting.exists():
        return operation_ask(
            actor=actor,
            name=name,
            kind=OperationKind.CHANGE_MODEL,
            changes={"model": model},
            foreground=foreground,
        )
    try:
        _check_model(backend, model)
    except (InvalidOptions, PreflightFailed) as exc:
        refused(actor, name, OperationKind.CHANGE_MODEL, exc.message)
        raise
    with transaction.atomic():
        return _configured(actor, backend, model)


def _check_model(backend: Backend, model: str) -> None:
    """Find out now that the model is not there, where this machine can tell.

    Raises:
        InvalidOptions, PreflightFailed.
    """
    options = selectors.backend_options(backend, {"model": model})
    if backend.node != settings.MH_NODE:
        return
    for problem in selectors.backend_engine(backend).preflight(options):
        if problem.option == "model":
            raise PreflightFailed(problem.message, code=problem.code, param="model")


def _configured(actor: Actor, backend: Backend, model: str) -> Operation:
    """Configure the model, and record that as an operation that has ended."""
    if made := operation_repeated(actor):
        return made
    backend_configure_as(actor=actor, name=backend.name, options={"model": model})
    moment = selectors.now()
    row = Operation.objects.create(
        kind=OperationKind.CHANGE_MODEL,
        backend=backend,
        node=backend.node,
        request={"model": model},
        state=OperationState.SUCCEEDED,
        progress=1.0,
        requested_by=actor.user,
        requested_by_name=actor.name,
        request_id=actor.request_id,
        source_address=actor.source_address,
        created_at=moment,
        started_at=moment,
        finished_at=moment,
    )
    key_keep(actor, row)
    title = selectors.backend_engine(backend).title
    OperationStep.objects.create(
        operation=row,
        name="configure",
        state=StepState.DONE,
        message=f"{title} is not running; it will serve {model} when it is started.",
        started_at=moment,
        finished_at=moment,
    )
    event_record(
        actor=actor,
        event="operation.requested",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {backend.name}",
        after={"kind": row.kind, "backend": backend.name, "request": row.request},
    )
    ended_event(actor, row, OperationState.SUCCEEDED, "Configured for the next start.")
    transaction.on_commit(lambda: operation_publish(str(row.pk)))
    return row


def backend_apply(*, actor: Actor, name: str, foreground: bool = False) -> Operation:
    """Ask for backend ``name`` to run with its options as they are configured now.

    What runs is compared with what would be started: with nothing changed nothing is done, and only
    what changed restarts. Where that fails, what ran before runs again; the configuration stays.

    Raises:
        As ``backend_start``.
    """
    return operation_ask(
        actor=actor, name=name, kind=OperationKind.APPLY, changes={}, foreground=foreground
    )


def backend_unload(*, actor: Actor, name: str, foreground: bool = False) -> Operation:
    """Ask for backend ``name`` to give its memory back, unless a request comes first.

    It is parked or stopped, as its option ``parking`` says.

    Raises:
        As ``backend_start``; OperationConflict when it does not run.
    """
    backend = backend_for(actor, name, OperationKind.UNLOAD)
    if not selectors.backend_is_running(backend):
        msg = f"{name} is {backend.state}: it has nothing to give back."
        refused(actor, name, OperationKind.UNLOAD, msg)
        raise OperationConflict(msg)
    none: dict[str, Any] = {}
    return operation_ask(
        actor=actor, name=name, kind=OperationKind.UNLOAD, changes=none, foreground=foreground
    )
