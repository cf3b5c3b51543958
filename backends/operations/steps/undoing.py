"""What failed or was cancelled is cleared away; what ran before serves again."""

from typing import Any

from accounts.errors import MhError
from backends import leases, services
from backends.errors import OperationCancelled, OperationLost, StartFailed, StopFailed
from backends.lifecycle import State, is_alive, is_serving
from backends.operations.context import Context
from backends.operations.steps import attached, gpu_guard, parking
from backends.operations.steps.starting import commit, start, warm
from backends.operations.steps.stopping import release_one, stop_instances


def undo_start(ctx: Context, *, failure: str, detail: str, cancelled: bool) -> None:
    """Clear away a start that failed or was cancelled: no process is left, the log is kept."""
    backend = ctx.backend
    if backend.attached:
        attached.undo_start(ctx, failure=failure, detail=detail, cancelled=cancelled)
        return
    if not is_alive(State(backend.state)) and not ctx.spawned:
        return
    if backend.state == State.READY and not ctx.spawned:
        return
    gpu_guard.still_ours(ctx)
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STOPPING)
    held = gpu_guard.note(ctx)
    try:
        stop_instances(ctx, ctx.instance)
        gpu_guard.give_back(ctx, held)
    except StopFailed as exc:
        services.backend_transition(
            actor=ctx.actor, name=backend.name, to=State.FAILED, failure=exc.message
        )
        return
    cleared: dict[str, Any] = {"instance_id": "", "model": "", "endpoint": ""}
    services.backend_transition(
        actor=ctx.actor,
        name=backend.name,
        to=State.STOPPED if cancelled else State.FAILED,
        failure="" if cancelled else failure,
        failure_detail="" if cancelled else detail,
        **cleared,
    )
    leases.gate_open(backend.name)


def restore(ctx: Context) -> str:
    """Have the backend that ran before serve as before.

    Returns:
        A sentence that says so; empty when none ran.

    Raises:
        StartFailed, StopFailed: it could not be started again.
    """
    old = ctx.restoring
    if old is None:
        return ""
    backend = old.backend
    if parking.may_be_parked(ctx, old):
        services.backend_transition(actor=old.actor, name=old.name, to=State.PARKED)
        _start_again(old)
    elif backend.state == State.DRAINING:
        services.backend_undrain(actor=old.actor, name=old.name)
    elif not is_serving(State(backend.state)):
        _start_again(old)
    leases.gate_open(old.name)
    return f"{old.engine.title} serves {old.backend.model} again."


def finish_stop(old: Context) -> None:
    """End what is half stopped and is not to run again.

    Raises:
        StopFailed: something of it is still there.
    """
    release_one(old)


def _start_again(old: Context) -> None:
    if old.backend.state == State.STOPPING:
        release_one(old)
    old.say(f"starting {old.engine.title} again", 0.5)
    try:
        start(old)
        warm(old)
        commit(old)
    except OperationLost:
        raise
    except MhError as exc:
        detail = exc.detail if isinstance(exc, StartFailed) else ""
        cancelled = isinstance(exc, OperationCancelled)
        undo_start(old, failure=exc.message, detail=detail, cancelled=cancelled)
        raise
