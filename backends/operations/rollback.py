"""Rolls an operation back: what it started is cleared away, and what ran before serves again.

It is recorded as a step of its own with its cause, so that a runner that finds it under way goes on
with it and does not try the operation once more.
"""

from collections.abc import Mapping
from typing import Final

from accounts.errors import MhError
from backends import leases, selectors, services
from backends.errors import (
    InvalidOptions,
    OperationCancelled,
    OperationLost,
    StartFailed,
    StopFailed,
)
from backends.launch_spec import Change
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationKind, OperationState, StepState
from backends.operations import steps
from backends.operations.context import Context

NAME: Final = "rollback"
#: Kinds of operations that put something in the place of what ran before.
KINDS: Final = frozenset(
    {
        OperationKind.SWITCH,
        OperationKind.RESTART,
        OperationKind.CHANGE_MODEL,
        OperationKind.APPLY,
    }
)
Ended = tuple[OperationState, dict[str, str]]


def cause(row: Operation) -> MhError:
    """Return why ``row`` is being rolled back, from what was recorded when that began."""
    error = row.error or {}
    message = str(error.get("message") or f"The {row.kind} failed.")
    if error.get("code") == OperationCancelled.code:
        return OperationCancelled(message)
    return StartFailed(message, detail=str(error.get("detail", "")))


def roll_back(ctx: Context, exc: MhError, state: OperationState, error: dict[str, str]) -> Ended:
    """Undo what an operation of ``KINDS`` did.

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
        restored = "" if _is_in_vain(ctx, exc, begun) else _restore(ctx, begun)
    except OperationLost:
        raise
    except MhError as again:
        return OperationState.FAILED, _not_restored(ctx, error, again)
    services.step_end(row, NAME, StepState.DONE, restored)
    if not restored:
        _say_what_is_left(ctx)
        return state, error
    ended = state if state == OperationState.CANCELLED else OperationState.ROLLED_BACK
    return ended, error | {"message": f"{exc.message} {restored}"}


def _restore(ctx: Context, begun: Mapping[str, str]) -> str:
    old = ctx.restoring
    if "load" in begun and old is not None:
        steps.undo_load(ctx, old)
    return steps.restore(ctx)


def _is_in_vain(ctx: Context, exc: MhError, begun: Mapping[str, str]) -> bool:
    """Return whether what ran before is not to be had, or not wanted.

    The same start that has just failed would fail again; a stop that waits would end it at once.
    """
    old = ctx.restoring
    if old is None:
        return ctx.operation.kind != OperationKind.SWITCH
    if selectors.stop_is_asked(old.name):
        return True
    tried = old.name == ctx.name and "start" in begun and not isinstance(exc, OperationCancelled)
    return tried and _is_the_same(ctx, old)


def _is_the_same(ctx: Context, old: Context) -> bool:
    row = Backend(name=old.name, engine=old.backend.engine, started_options=old.given)
    try:
        return selectors.backend_difference(row, ctx.options).change == Change.NOTHING
    except InvalidOptions:
        return False


def _say_what_is_left(ctx: Context) -> None:
    """Nothing was restored: a backend that only drained serves on, one half stopped is said to be that."""
    old = ctx.leaving
    if old is None:
        return
    state = State(old.backend.state)
    if state == State.DRAINING:
        services.backend_undrain(actor=ctx.actor, name=old.name)
    elif state == State.STOPPING:
        steps.finish_stop(old)
    leases.gate_open(old.name)


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
    old = ctx.operation.from_backend or ctx.name
    if isinstance(again, StopFailed):
        services.backend_failed_to_stop(actor=ctx.actor, name=old, failure=again.message)
    services.step_end(ctx.operation, NAME, StepState.FAILED, again.message)
    if again.message == error["message"]:
        return error
    return error | {
        "message": f"{error['message']} What ran before ({old}) does not run again: {again.message}"
    }
