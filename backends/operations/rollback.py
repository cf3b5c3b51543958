"""Rolls a switch back: what it started is cleared away, and what ran before serves again.

It is recorded as a step of its own with its cause, so that a runner that finds it under way goes on
with it and does not try the switch once more.
"""

from typing import Final

from accounts.errors import MhError
from backends import leases, services
from backends.errors import OperationCancelled, OperationLost, StartFailed, StopFailed
from backends.lifecycle import State
from backends.models import Operation, OperationState, StepState
from backends.operations import steps
from backends.operations.context import Context

NAME: Final = "rollback"
Ended = tuple[OperationState, dict[str, str]]


def cause(row: Operation) -> MhError:
    """Return why ``row`` is being rolled back, from what was recorded when that began."""
    error = row.error or {}
    message = str(error.get("message") or "The switch failed.")
    if error.get("code") == OperationCancelled.code:
        return OperationCancelled(message)
    return StartFailed(message, detail=str(error.get("detail", "")))


def roll_back(ctx: Context, exc: MhError, state: OperationState, error: dict[str, str]) -> Ended:
    """Undo a switch.

    Args:
        ctx: the run that failed.
        exc: why.
        state: how the operation ends where there is nothing to restore.
        error: ``exc`` as it is recorded.

    Returns:
        How the operation ended, and what to say of it.

    Raises:
        OperationLost: another runner has the operation.
    """
    row = ctx.operation
    begun = dict(row.steps.values_list("name", "state"))
    if begun.get(ctx.step) == StepState.RUNNING:
        services.step_end(row, ctx.step, StepState.FAILED, exc.message)
    if "drain" not in begun:
        leases.gate_open(row.from_backend or row.backend_id)
        return state, error
    services.operation_failing(row, runner=ctx.runner, error=error)
    ctx.step = NAME
    services.step_begin(row, NAME, runner=ctx.runner)
    try:
        if "start" in begun:
            _clear_away(ctx, exc, error)
        restored = steps.restore(ctx)
    except OperationLost:
        raise
    except MhError as again:
        return OperationState.FAILED, _not_restored(ctx, error, again)
    services.step_end(row, NAME, StepState.DONE, restored)
    if not restored:
        return state, error
    ended = state if state == OperationState.CANCELLED else OperationState.ROLLED_BACK
    return ended, error | {"message": f"{exc.message} {restored}"}


def _clear_away(ctx: Context, exc: MhError, error: dict[str, str]) -> None:
    """Stop the new engine, if this operation started it: perhaps by a runner before this one."""
    backend = ctx.backend
    began = ctx.operation.started_at
    since = backend.state_since
    if backend.state == State.READY and began and since and since >= began:
        ctx.spawned = True
    steps.undo_start(
        ctx,
        failure=exc.message,
        detail=error["detail"],
        cancelled=isinstance(exc, OperationCancelled),
    )


def _not_restored(ctx: Context, error: dict[str, str], again: MhError) -> dict[str, str]:
    old = ctx.operation.from_backend
    if isinstance(again, StopFailed):
        services.backend_failed_to_stop(actor=ctx.actor, name=old, failure=again.message)
    services.step_end(ctx.operation, NAME, StepState.FAILED, again.message)
    if again.message == error["message"]:
        return error
    return error | {
        "message": f"{error['message']} What ran before ({old}) does not run again: {again.message}"
    }
