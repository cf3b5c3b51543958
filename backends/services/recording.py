"""Operations recorded by their runner: claimed, beating, step by step, ended."""

from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import Q

from accounts.actors import Actor
from accounts.permissions import Permission, is_allowed
from audit.models import Category, Level, Outcome
from audit.services import event_record
from backends import launch_spec, selectors
from backends.errors import (
    OperationLost,
    PreflightFailed,
)
from backends.models import (
    Backend,
    Operation,
    OperationState,
    OperationStep,
    StepState,
)
from backends.services.rows import operation_publish, status_publish

_FINISHED_LEVEL: Final = {
    OperationState.SUCCEEDED: (Level.INFO, Outcome.SUCCESS),
    OperationState.CANCELLED: (Level.WARNING, Outcome.SUCCESS),
    OperationState.FAILED: (Level.ERROR, Outcome.FAILURE),
    OperationState.ROLLED_BACK: (Level.ERROR, Outcome.FAILURE),
}


def operation_actor(row: Operation) -> Actor:
    """Return who asked for ``row``, for the audit events of its steps."""
    return Actor(
        user=row.requested_by,
        surface="system",
        request_id=row.request_id,
        source_address=row.source_address,
    )


def operation_claim(row: Operation, *, runner: str, stale_before: Any) -> bool:
    """Take ``row`` for ``runner``: one that waits, or one whose runner has not been heard of.

    At most one operation runs per GPU machine; the database sees to it.
    """
    free = Q(state=OperationState.QUEUED) | Q(
        state=OperationState.RUNNING, heartbeat_at__lt=stale_before
    )
    now = selectors.now()
    try:
        with transaction.atomic():
            resumed = row.state == OperationState.RUNNING
            taken = Operation.objects.filter(free, pk=row.pk, runner=row.runner).update(
                state=OperationState.RUNNING,
                runner=runner,
                heartbeat_at=now,
                started_at=row.started_at or now,
            )
            if not taken:
                return False
            event_record(
                actor=operation_actor(row),
                event="operation.resumed" if resumed else "operation.started",
                category=Category.OPERATION,
                level=Level.WARNING if resumed else Level.INFO,
                target_type="operation",
                target_id=str(row.pk),
                message=f"{row.kind} {row.backend_id}",
            )
            transaction.on_commit(lambda: operation_publish(str(row.pk)))
    except IntegrityError:
        return False
    return True


def operation_beat(operation_id: str, *, runner: str) -> bool:
    """Say that ``runner`` still runs the operation; False when it has been taken over."""
    held = Operation.objects.filter(pk=operation_id, runner=runner, state=OperationState.RUNNING)
    return bool(held.update(heartbeat_at=selectors.now()))


def operation_leave(row: Operation, *, runner: str) -> None:
    """Record what a switch is to stop, as things are when it begins, and what that was started with.

    Raises:
        OperationLost: another runner has the operation.
        PreflightFailed: something else runs by now, which is not for whoever asked to stop.
    """
    leaving = selectors.backend_to_leave(row.backend, row.request)
    user = row.requested_by
    if leaving and user and leaving.name != row.from_backend:
        owner = leaving.owner_id
        if not is_allowed(user, Permission.BACKENDS_OPERATE, backend_owner_id=owner):
            msg = f"{leaving.name} is running by now, and you may not stop it. Ask its owner."
            raise PreflightFailed(msg, code="permission_denied")
    row.from_backend = leaving.name if leaving else ""
    row.from_options = _started_options(leaving) if leaving else None
    held = Operation.objects.filter(pk=row.pk, runner=runner)
    if not held.update(from_backend=row.from_backend, from_options=row.from_options):
        msg = f"operation {row.pk} was taken over by another runner"
        raise OperationLost(msg)


def operation_remember(row: Operation, *, runner: str) -> None:
    """Record what the backend of ``row`` runs with, to have it again where the operation fails.

    Raises:
        OperationLost: another runner has the operation.
    """
    backend = selectors.backend_get(row.backend_id)
    runs = selectors.backend_is_running(backend)
    row.from_options = _started_options(backend) if runs else None
    if not Operation.objects.filter(pk=row.pk, runner=runner).update(from_options=row.from_options):
        msg = f"operation {row.pk} was taken over by another runner"
        raise OperationLost(msg)


def _started_options(backend: Backend) -> dict[str, Any]:
    kept = backend.started_options
    return kept if kept is not None else selectors.options_given(backend)


def operation_failing(row: Operation, *, runner: str, error: dict[str, str]) -> None:
    """Record why an operation is being rolled back, for whoever must go on with that."""
    Operation.objects.filter(pk=row.pk, runner=runner).update(error=error)


def operation_report(
    operation_id: str, *, runner: str, progress: float, eta_seconds: float | None
) -> None:
    """Record how far the operation is."""
    Operation.objects.filter(pk=operation_id, runner=runner).update(
        progress=progress, eta_seconds=eta_seconds
    )
    operation_publish(operation_id)


def step_begin(row: Operation, name: str, *, runner: str) -> None:
    """Record, before it is taken, that a step begins (again, when the operation was resumed)."""
    with transaction.atomic():
        if not operation_beat(str(row.pk), runner=runner):
            msg = f"operation {row.pk} was taken over by another runner"
            raise OperationLost(msg)
        OperationStep.objects.update_or_create(
            operation=row,
            name=name,
            defaults={"state": StepState.RUNNING, "finished_at": None, "message": ""},
            create_defaults={"state": StepState.RUNNING, "started_at": selectors.now()},
        )
        _step_event(row, name, "step_started", "")
        transaction.on_commit(lambda: operation_publish(str(row.pk)))


def step_message(row: Operation, name: str, message: str) -> None:
    """Record what a step is doing."""
    OperationStep.objects.filter(operation=row, name=name).update(message=message)


def step_end(row: Operation, name: str, state: StepState, message: str | None = None) -> None:
    """Record how a step ended."""
    changes: dict[str, Any] = {"state": state, "finished_at": selectors.now()}
    if message is not None:
        changes["message"] = message
    with transaction.atomic():
        OperationStep.objects.filter(operation=row, name=name).update(**changes)
        _step_event(row, name, f"step_{state}", message or "")
        transaction.on_commit(lambda: operation_publish(str(row.pk)))


def _step_event(row: Operation, step: str, what: str, message: str) -> None:
    failed = what == f"step_{StepState.FAILED}"
    event_record(
        actor=operation_actor(row),
        event=f"operation.{what}",
        category=Category.OPERATION,
        level=Level.ERROR if failed else Level.INFO,
        outcome=Outcome.FAILURE if failed else Outcome.SUCCESS,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}: {step}. {message}".strip(),
    )


def operation_end(
    row: Operation,
    state: OperationState,
    *,
    runner: str,
    error: dict[str, str] | None = None,
) -> None:
    """Record that the operation ended, and how."""
    changes: dict[str, Any] = {"state": state, "finished_at": selectors.now(), "error": error}
    changes["eta_seconds"] = None
    if row.from_options:  # its secrets are not kept longer than they may be needed
        changes["from_options"] = launch_spec.options_of(row.from_options)
    if state == OperationState.SUCCEEDED:
        changes["progress"] = 1.0
    with transaction.atomic():
        held = Operation.objects.filter(pk=row.pk, runner=runner, state=OperationState.RUNNING)
        if not held.update(**changes):
            return
        message = f"{error['message']} {error['detail']}".strip() if error else ""
        ended_event(operation_actor(row), row, state, message)
        transaction.on_commit(lambda: operation_publish(str(row.pk)))
        transaction.on_commit(status_publish)


def ended_event(actor: Actor, row: Operation, state: OperationState, message: str) -> None:
    """Record in the audit how an operation ended."""
    level, outcome = _FINISHED_LEVEL[state]
    event_record(
        actor=actor,
        event=f"operation.{state}",
        category=Category.OPERATION,
        level=level,
        outcome=outcome,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}. {message}".strip(),
    )
