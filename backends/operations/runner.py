"""Takes the operations of one GPU machine, one of each lane at a time, step by step.

A run beats once a second. One whose runner has been silent for ``STALE_SECONDS`` is claimed by the
next runner that looks, and taken up at the step it had reached; every step can be taken again.
"""

import logging
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from django.db import DatabaseError, connections

from accounts.errors import MhError
from backends import leases, selectors, services
from backends.errors import OperationCancelled, OperationLost, StartFailed
from backends.models import (
    OPEN_OPERATION_STATES,
    Lane,
    Operation,
    OperationKind,
    OperationState,
    StepState,
)
from backends.operations import plans, rollback, steps
from backends.operations.context import Context
from backends.operations.steps import spawning

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
STALE_SECONDS: Final = 5.0

_one_at_a_time: Final = {lane: threading.Lock() for lane in Lane}


def run_operations(node: str, lane: Lane | None = None) -> int:
    """Run what waits for ``node``, and what a dead runner left, until nothing does.

    Args:
        node: the GPU machine.
        lane: only the operations of this one; None for all, beside each other.

    Returns:
        How many operations this call ran. 0 at once when this process is already running some.
    """
    if lane is not None:
        return _run_lane(node, lane)
    others = [lane for lane in Lane if lane != Lane.GPU and has_work(node, lane)]
    if not others:
        return _run_lane(node, Lane.GPU)
    with ThreadPoolExecutor(len(others), thread_name_prefix="mh-lane") as pool:
        beside = [pool.submit(_run_lane_in_thread, node, lane) for lane in others]
        return _run_lane(node, Lane.GPU) + sum(future.result() for future in beside)


def _run_lane_in_thread(node: str, lane: Lane) -> int:
    try:
        return _run_lane(node, lane)
    finally:
        connections.close_all()


def _run_lane(node: str, lane: Lane) -> int:
    if not _one_at_a_time[lane].acquire(blocking=False):
        return 0
    ran = 0
    try:
        while (claimed := _claim_next(node, lane)) is not None:
            row, runner = claimed
            _run(row, runner)
            ran += 1
    finally:
        _one_at_a_time[lane].release()
    return ran


def has_work(node: str, lane: Lane) -> bool:
    """Return whether ``run_operations`` would find something to do in ``lane``."""
    return bool(_claimable(node, lane))


def _claimable(node: str, lane: Lane) -> list[Operation]:
    stale_before = selectors.now() - timedelta(seconds=STALE_SECONDS)
    rows = Operation.objects.filter(
        node=node, lane=lane, state__in=OPEN_OPERATION_STATES
    ).select_related("backend", "requested_by")
    running = [row for row in rows if row.state == OperationState.RUNNING]
    if running:
        return [row for row in running if row.heartbeat_at and row.heartbeat_at < stale_before]
    return sorted(rows, key=lambda row: row.created_at)


def _claim_next(node: str, lane: Lane) -> tuple[Operation, str] | None:
    runner = uuid.uuid4().hex
    stale_before = selectors.now() - timedelta(seconds=STALE_SECONDS)
    for row in _claimable(node, lane):
        if services.operation_claim(row, runner=runner, stale_before=stale_before):
            return row, runner
    return None


def _run(row: Operation, runner: str) -> None:
    """Run one operation to its end; nothing it does may end the worker."""
    ctx = Context.of(row, runner)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(ctx, done), name="mh-heartbeat", daemon=True)
    beat.start()
    try:
        _take_steps(ctx)
    except OperationLost:
        logger.warning("operation %s was taken over by another runner", row.pk)
    except MhError as exc:
        _end_badly(ctx, exc)
    except Exception:
        # The boundary: a bug in a step or plugin ends its operation, not the worker.
        logger.exception("operation %s failed", row.pk)
        _end_badly(ctx, _unexpected())
    finally:
        spawning.end_keeper(ctx)
        done.set()
        beat.join(BEAT_SECONDS * 2)


def _unexpected() -> StartFailed:
    return StartFailed("Something unexpected went wrong; the worker's log says what.")


def _end_badly(ctx: Context, exc: MhError) -> None:
    """Undo what was done, and say how it ended."""
    state = (
        OperationState.CANCELLED if isinstance(exc, OperationCancelled) else OperationState.FAILED
    )
    error = _error(exc)
    if ctx.operation.kind not in rollback.KINDS:
        _undo(ctx, exc)
    else:
        try:
            state, error = rollback.roll_back(ctx, exc, state, error)
        except OperationLost:
            logger.warning("operation %s was taken over while it was rolled back", ctx.operation.pk)
            return
        except Exception:
            # The boundary again: what went wrong while undoing.
            logger.exception("operation %s: roll-back failed", ctx.operation.pk)
            state = OperationState.FAILED
    spawning.discard_unwanted(ctx)
    services.operation_end(ctx.operation, state, runner=ctx.runner, error=error)


def _beat(ctx: Context, done: threading.Event) -> None:
    while not done.wait(BEAT_SECONDS):
        try:
            if not services.operation_beat(str(ctx.operation.pk), runner=ctx.runner):
                if not done.is_set():
                    ctx.lost.set()
                break
        except DatabaseError as exc:
            logger.warning("heartbeat not written: %s", exc)
    connections.close_all()


def _take_steps(ctx: Context) -> None:
    finished = set(ctx.operation.steps.filter(state=StepState.DONE).values_list("name", flat=True))
    if rollback.NAME in ctx.operation.steps.values_list("name", flat=True):
        raise rollback.cause(ctx.operation)
    if ctx.resumed:  # what the runner before had begun is what a cancel undoes
        ctx.step = ctx.operation.steps.values_list("name", flat=True).last() or ""
    for step in plans.PLANS[ctx.operation.kind]:
        name = plans.step_name(step)
        if name in finished and name != "preflight":
            continue
        if not plans.is_needed(step, ctx):
            continue
        ctx.checkpoint()
        ctx.step = name
        services.step_begin(ctx.operation, name, runner=ctx.runner)
        step(ctx)
        services.step_end(ctx.operation, name, StepState.DONE)
    services.operation_end(ctx.operation, OperationState.SUCCEEDED, runner=ctx.runner)


def _undo(ctx: Context, exc: MhError) -> None:
    """Leave a true state behind: an engine half started is cleared away, one half drained is let go on."""
    if ctx.step:
        services.step_end(ctx.operation, ctx.step, StepState.FAILED, exc.message)
    try:
        _undo_by_kind(ctx, exc)
    except MhError as undoing:
        logger.error("operation %s: clean-up failed: %s", ctx.operation.pk, undoing.message)  # noqa: TRY400


def _undo_by_kind(ctx: Context, exc: MhError) -> None:
    cancelled = isinstance(exc, OperationCancelled)
    starting = ctx.step in {"start", "warm", "commit"}
    if starting and ctx.operation.kind == OperationKind.START:
        detail = exc.detail if isinstance(exc, StartFailed) else ""
        steps.undo_start(ctx, failure=exc.message, detail=detail, cancelled=cancelled)
    elif ctx.step in {"hold", "drain", "settle"}:
        services.backend_undrain(actor=ctx.actor, name=ctx.operation.backend_id)
        leases.gate_open(ctx.operation.backend_id)
    elif ctx.step == "release" and ctx.operation.kind == OperationKind.UNLOAD:
        steps.finish_unload(ctx)
    elif ctx.step == "release":
        steps.attached.let_go_on(ctx)
        services.backend_failed_to_stop(
            actor=ctx.actor, name=ctx.operation.backend_id, failure=exc.message
        )


def _error(exc: MhError) -> dict[str, str]:
    detail = exc.detail if isinstance(exc, StartFailed) else ""
    return {"message": exc.message, "code": exc.code, "detail": detail}
