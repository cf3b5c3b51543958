"""Operations asked for: who may, is it valid, does it join one that waits."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.permissions import Permission
from audit import access
from audit.models import Category, Level, Outcome
from audit.services import event_record
from backends import bus, lifecycle, selectors
from backends.errors import (
    BackendNotRunning,
    EngineAttached,
    InvalidOptions,
    OperationConflict,
    UnknownBackend,
    WorkerUnavailable,
)
from backends.lifecycle import State
from backends.models import (
    MODELS_KINDS,
    OPEN_OPERATION_STATES,
    Backend,
    Lane,
    Operation,
    OperationKind,
    OperationState,
    Switchboard,
)
from backends.services.attaching import refuse_if_others
from backends.services.recording import ended_event
from backends.services.repeating import key_keep, operation_repeated
from backends.services.rows import operation_publish

#: What other operations wait for instead of being refused: it ends soon, or gives way.
_BRIEF: Final = frozenset({OperationKind.STOP, OperationKind.UNLOAD})


def backend_start(
    *,
    actor: Actor,
    name: str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    foreground: bool = False,
) -> Operation:
    """Ask for backend ``name`` to be started. Returns at once with the operation.

    Args:
        actor: who asks; needs ``backends:operate``.
        name: the backend.
        model: what to serve; None for the configured one.
        options: changes to the configured options, kept if the start succeeds.
        foreground: the caller runs the operation itself, so no worker is needed.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, InvalidOptions, OperationConflict,
        WorkerUnavailable.
    """
    changes = _changes(model, options)
    return operation_ask(
        actor=actor, name=name, kind=OperationKind.START, changes=changes, foreground=foreground
    )


def backend_stop(*, actor: Actor, name: str, foreground: bool = False) -> Operation:
    """Ask for backend ``name`` to be stopped; a start under way is cancelled first."""
    return operation_ask(
        actor=actor, name=name, kind=OperationKind.STOP, changes={}, foreground=foreground
    )


def backend_restart(
    *,
    actor: Actor,
    name: str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    foreground: bool = False,
) -> Operation:
    """Ask for backend ``name`` to be stopped and started again, with ``model`` and ``options`` changed."""
    changes = _changes(model, options)
    return operation_ask(
        actor=actor, name=name, kind=OperationKind.RESTART, changes=changes, foreground=foreground
    )


def backend_switch(
    *, actor: Actor, name: str, model: str | None = None, foreground: bool = False
) -> Operation:
    """Ask for the GPU to be moved to backend ``name``: what runs now is stopped, ``name`` started.

    Where that fails after the old one was stopped, the old one is started again. With nothing running
    it is a start; a backend that already runs as asked is left as it is.

    Raises:
        As ``backend_start``; NotAllowed also for want of permission on the backend that would be stopped.
    """
    return operation_ask(
        actor=actor,
        name=name,
        kind=OperationKind.SWITCH,
        changes=_changes(model, None),
        foreground=foreground,
    )


def backend_on_demand(
    *, actor: Actor, name: str, since: datetime, model: str | None = None
) -> Operation | None:
    """Have backend ``name`` started, or switched to, for a request that needs it; its owner allows that.

    Nothing is asked for while another operation waits or runs, nor before the backend that has to give
    way has stayed for its shortest stay: ask again a little later.

    Args:
        actor: whose request it is; needs no permission to operate.
        name: the backend.
        since: when the request came. A start on demand that failed after that is not tried again.
        model: what to serve; None for the configured one.

    Returns:
        The operation that was asked for; None when it is too early.

    Raises:
        BackendNotRunning: its owner does not allow it, or it was tried and failed.
        UnknownBackend.
    """
    backend = selectors.backend_get(name)
    _demand_check(backend, since)
    changes = _changes(model, None)
    with transaction.atomic():
        Switchboard.objects.select_for_update().filter(pk=1).first()
        if Operation.objects.filter(
            node=backend.node, lane=Lane.GPU, state__in=OPEN_OPERATION_STATES
        ).exists():
            return None
        leaving = selectors.backend_to_leave(backend, changes)
        if leaving is not None and not _has_stayed(leaving):
            return None
        kind = OperationKind.SWITCH if leaving else OperationKind.START
        system = Actor(user=None, surface="system", request_id=actor.request_id)
        row = operation_create(system, backend, kind, changes, leaving.name if leaving else "")
        event_record(
            actor=actor,
            event="operation.on_demand",
            category=Category.OPERATION,
            target_type="operation",
            target_id=str(row.pk),
            message=f"{kind} {backend.name}, for a request",
        )
    return row


def _demand_check(backend: Backend, since: datetime) -> None:
    title = selectors.backend_engine(backend).title
    if not selectors.comes_on_demand(backend):
        msg = f"{title} is not running. Start it with: mh {backend.name} start"
        raise BackendNotRunning(msg)
    failed = Operation.objects.filter(
        backend=backend,
        requested_by=None,
        created_at__gte=since,
        state__in=(OperationState.FAILED, OperationState.ROLLED_BACK),
    ).first()
    if failed is not None:
        why = (failed.error or {}).get("message", "")
        raise BackendNotRunning(f"{title} could not be started on demand. {why}".strip())
    if not selectors.worker_alive():
        msg = f"{title} is not running, and no worker is up to start it. Start the site with: mh up"
        raise BackendNotRunning(msg, code="worker_unavailable", retry_after=5)


def _has_stayed(backend: Backend) -> bool:
    """Return whether a backend has had the GPU for its shortest stay."""
    if backend.state_since is None or not lifecycle.is_serving(State(backend.state)):
        return True
    stayed = (selectors.now() - backend.state_since).total_seconds()
    return stayed >= float(selectors.backend_options(backend).minimumStaySeconds)


def _changes(model: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    changes = dict(options or {})
    if model is not None:
        changes["model"] = model
    return changes


def operate_check(*, actor: Actor, name: str) -> None:
    """Check that ``actor`` may operate backend ``name``, before anything else about a request is said.

    Raises:
        NotAuthenticated, NotAllowed, UnknownBackend.
    """
    backend_for(actor, name, "request")


def backend_for(actor: Actor, name: str, what: str) -> Backend:
    """Return the backend after the permission check; who may not operate does not learn what exists."""
    found = Backend.objects.filter(name=name).first()
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="backend",
        target_id=name[:80],
        backend_owner_id=found.owner_id if found else None,
    )
    try:
        return found or selectors.backend_get(name)
    except UnknownBackend as exc:
        refused(actor, name, what, exc.message)
        raise


def refused(actor: Actor, name: str, what: str, why: str) -> None:
    """Record that what was asked of backend ``name`` was refused, and why."""
    event_record(
        actor=actor,
        event=f"operation.{what}_refused",
        category=Category.OPERATION,
        level=Level.WARNING,
        outcome=Outcome.FAILURE,
        target_type="backend",
        target_id=name[:80],
        message=why,
    )


def operation_ask(
    *, actor: Actor, name: str, kind: OperationKind, changes: dict[str, Any], foreground: bool
) -> Operation:
    """Ask for an operation of ``kind`` with ``changes`` of options; joins one that waits for the same."""
    backend = backend_for(actor, name, kind)
    try:
        changes = selectors.backend_engine(backend).Options.own_names(changes)
        options = selectors.backend_options(backend, changes)
        _refuse_secrets(options, changes)
        if not foreground and not selectors.worker_alive():
            msg = (
                f"No worker of GPU machine {backend.node!r} is running, so nothing can be started or "
                "stopped. Start the site with: mh up"
            )
            raise WorkerUnavailable(msg, retry_after=5)
        refuse_if_others(backend, kind, foreground=foreground)
        leaving = _leaving_allowed(actor, backend, changes) if kind == OperationKind.SWITCH else ""
        with transaction.atomic():
            return _operation_create_or_join(actor, backend, kind, changes, leaving)
    except (EngineAttached, InvalidOptions, OperationConflict, WorkerUnavailable) as exc:
        refused(actor, name, kind, exc.message)
        raise


def _leaving_allowed(actor: Actor, backend: Backend, changes: dict[str, Any]) -> str:
    """Return the name of what a switch would stop, once it is known that ``actor`` may stop it."""
    leaving = selectors.backend_to_leave(backend, changes)
    if leaving is None:
        return ""
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="backend",
        target_id=leaving.name,
        backend_owner_id=leaving.owner_id,
    )
    return leaving.name


def _refuse_secrets(options: Any, changes: dict[str, Any]) -> None:
    """Secrets are set by configuration, which encrypts them; operations are kept as they were asked."""
    hidden = sorted(type(options).fields_with("secret") & changes.keys())
    if hidden:
        msg = f"{hidden[0]} is a secret: set it with PATCH /api/llm-backend/<name>/config first."
        raise InvalidOptions(msg, param=f"options.{hidden[0]}")


def _operation_create_or_join(
    actor: Actor, backend: Backend, kind: OperationKind, changes: dict[str, Any], leaving: str
) -> Operation:
    backend = Backend.objects.select_for_update().get(pk=backend.pk)
    if made := operation_repeated(actor):
        return made
    waiting = list(
        Operation.objects.filter(
            backend=backend, lane=Lane.GPU, state__in=OPEN_OPERATION_STATES
        ).order_by("created_at")
    )
    same = [row for row in waiting if row.kind == kind and row.request == changes]
    if same and same[-1] is waiting[-1] and not same[-1].cancel_requested:
        event_record(
            actor=actor,
            event="operation.joined",
            category=Category.OPERATION,
            target_type="operation",
            target_id=str(same[-1].pk),
            message=f"{kind} {backend.name}",
        )
        key_keep(actor, same[-1])
        return same[-1]
    if kind == OperationKind.STOP:
        for row in waiting:
            _cancel(actor, row)
    elif any(row.kind not in _BRIEF and not row.cancel_requested for row in waiting):
        msg = (
            f"{backend.name} is busy with another operation ({waiting[-1].kind}). Wait for it, or "
            f"cancel it: POST /api/llm-backend/operations/{waiting[-1].pk}/cancel"
        )
        raise OperationConflict(msg)
    return operation_create(actor, backend, kind, changes, leaving)


def operation_create(
    actor: Actor, backend: Backend, kind: OperationKind, changes: dict[str, Any], leaving: str
) -> Operation:
    """Make the row, with its audit event, and wake the worker. Within a transaction."""
    lane = Lane.MODELS if kind in MODELS_KINDS else Lane.GPU
    row = Operation.objects.create(
        kind=kind,
        lane=lane,
        backend=backend,
        from_backend=leaving,
        node=backend.node,
        request=changes,
        eta_seconds=_seconds_expected(backend, kind, changes),
        requested_by=actor.user,
        requested_by_name=actor.name,
        request_id=actor.request_id,
        source_address=actor.source_address,
        created_at=selectors.now(),
    )
    event_record(
        actor=actor,
        event="operation.requested",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{kind} {backend.name}",
        after={"kind": kind, "backend": backend.name, "request": changes},
    )
    key_keep(actor, row)
    transaction.on_commit(lambda: _dispatch(row))
    return row


def _seconds_expected(
    backend: Backend, kind: OperationKind, changes: dict[str, Any]
) -> float | None:
    if kind in MODELS_KINDS:  # no two models are of a size
        return None
    return selectors.start_seconds_expected(backend, kind, _model_of(backend, changes))


def _model_of(backend: Backend, changes: dict[str, Any]) -> str | None:
    """Return the name the model asked for is served under; None for the configured one."""
    if "model" not in changes:
        return None
    try:
        return selectors.backend_launch(backend, changes).served_model
    except MhError:  # preflight says why
        return None


def _dispatch(row: Operation) -> None:
    """Wake the worker. It looks for itself once a second, so a lost message only costs that second."""
    operation_publish(str(row.pk))
    bus.worker_wake(row.node)


def operation_cancel(*, actor: Actor, operation_id: str) -> Operation:
    """Ask an operation to stop; one that has ended is returned as it is."""
    row = selectors.operation_get(operation_id)
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="operation",
        target_id=str(row.pk),
        backend_owner_id=row.backend.owner_id,
    )
    with transaction.atomic():
        _cancel(actor, row)
    return selectors.operation_get(operation_id)


def _cancel(actor: Actor, row: Operation) -> None:
    """A waiting operation ends at once; a running one is told, and its runner undoes what it did."""
    asked = Operation.objects.filter(pk=row.pk, cancel_requested=False).filter(
        state__in=OPEN_OPERATION_STATES
    )
    if not asked.update(cancel_requested=True):
        return
    event_record(
        actor=actor,
        event="operation.cancel_requested",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}",
    )
    ended = Operation.objects.filter(pk=row.pk, state=OperationState.QUEUED).update(
        state=OperationState.CANCELLED, finished_at=selectors.now()
    )
    if ended:
        ended_event(actor, row, OperationState.CANCELLED, "")
    transaction.on_commit(lambda: operation_publish(str(row.pk)))
