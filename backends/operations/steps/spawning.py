"""How a start gets its process: from a standby, by the launcher, or plainly; whichever works."""

import logging
from typing import Any

from accounts.errors import MhError
from backends import leases, services, standby, supervisor
from backends.engines.base import Launch
from backends.errors import StartFailed
from backends.lifecycle import State
from backends.models import OperationKind, StartKind
from backends.operations.context import Context
from backends.operations.steps import gpu_guard
from backends.operations.steps.parking import squatter
from backends.operations.steps.stopping import release_one

logger = logging.getLogger(__name__)


def begin_ahead(ctx: Context) -> None:
    """Have a launcher of what is to start get ready while what runs now drains.

    Only where something runs now. It is used by ``spawn``, or ended by ``discard_unwanted``.
    """
    if ctx.operation.kind == OperationKind.START:
        return
    if ctx.leaving is None:
        return
    try:
        standby.ensure(ctx.home, ctx.name, ctx.engine.standby(ctx.options))
    except (MhError, OSError) as exc:
        logger.warning("no launcher of %s ahead: %s", ctx.name, exc)


def begin_keeper(ctx: Context) -> None:
    """Have the keeper of what is to start get ready while the rest is checked; ``end_keeper`` ends it."""
    if ctx.operation.kind == OperationKind.START and ctx.instance is None:
        ctx.keeper = supervisor.begin_keeper(supervisor.new_instance(ctx.home, ctx.name))


def end_keeper(ctx: Context) -> None:
    """End a keeper that was begun and has nothing to keep."""
    if ctx.keeper is not None:
        ctx.keeper.end_unused()


def discard_unwanted(ctx: Context) -> None:
    """End what ``begin_ahead`` began and nothing used, where no standby is to be kept."""
    try:
        if not getattr(ctx.options, "standby", False):
            standby.discard_all(ctx.home, ctx.name)
    except (MhError, OSError) as exc:
        logger.warning("standby of %s not ended: %s", ctx.name, exc)


def spawn(ctx: Context, launch: Launch) -> supervisor.Instance:
    """Make the engine's process and record it: a standby that becomes it, or a new one."""
    if (parked := squatter(ctx, launch.port)) is not None:
        release_one(ctx.on(parked.name))
    chosen = standby.choose(ctx.home, ctx.name, ctx.engine.standby(ctx.options))
    inst = _spawn_chosen(ctx, chosen, launch) if chosen else _spawn_new(ctx, launch)
    supervisor.prune(ctx.home, ctx.name)
    return inst


def _spawn_new(ctx: Context, launch: Launch) -> supervisor.Instance:
    ahead = ctx.keeper or supervisor.begin_keeper(supervisor.new_instance(ctx.home, ctx.name))
    ctx.keeper = None
    inst = ahead.inst
    try:
        _stop_strays(ctx, launch)
        _record(ctx, inst, launch)
        gpu_guard.spawn(ctx, inst, lambda: supervisor.spawn(inst, launch, ahead=ahead))
    finally:
        ahead.end_unused()
    return inst


def _spawn_chosen(ctx: Context, chosen: supervisor.Instance, launch: Launch) -> supervisor.Instance:
    _stop_strays(ctx, launch, but=chosen)
    _record(ctx, chosen, launch)
    try:
        gpu_guard.spawn(ctx, chosen, lambda: _tell(chosen, launch))
    except StartFailed as exc:
        return _instead(ctx, chosen, launch, exc.message)
    ctx.start_kind = StartKind.STANDBY
    return chosen


def _stop_strays(ctx: Context, launch: Launch, but: supervisor.Instance | None = None) -> None:
    """End what is left of earlier starts, before there are two; not what another runner has begun since."""
    gpu_guard.still_ours(ctx)
    for stray in supervisor.find(ctx.home, ctx.name):
        if stray != but:
            supervisor.stop(stray, grace=launch.stop_timeout)


def _record(ctx: Context, inst: supervisor.Instance, launch: Launch) -> None:
    """Say that the backend is starting, and as which instance, before anything of it can be lost."""
    backend = ctx.backend
    facts: dict[str, Any] = {
        "instance_id": inst.instance_id,
        "endpoint": launch.endpoint,
        "model": launch.served_model,
        "started_options": ctx.started_options,
    }
    with services.gpu_lease_held(backend=backend.name, fencing=ctx.fencing):
        if backend.state == State.STARTING:
            services.backend_update(name=backend.name, **facts)
        elif not services.backend_transition(
            actor=ctx.actor, name=backend.name, to=State.STARTING, **facts
        ):
            msg = f"{ctx.engine.title} is {backend.state} and cannot be started now."
            raise StartFailed(msg)
    leases.gate_open(backend.name)
    ctx.spawned = True


def _tell(chosen: supervisor.Instance, launch: Launch) -> None:
    if not standby.tell(chosen, launch):
        raise StartFailed("the standby was gone")


def spawn_plainly(
    ctx: Context, failed: supervisor.Instance, launch: Launch
) -> supervisor.Instance | None:
    """Start once more without the launcher, where it was the launcher that failed; None where it was not."""
    if launch.plain is None:
        return None
    reason = standby.launcher_failure(failed)
    return _instead(ctx, failed, launch.plain, reason) if reason else None


def _instead(
    ctx: Context, failed: supervisor.Instance, launch: Launch, reason: str
) -> supervisor.Instance:
    """Start a new instance in place of one that failed."""
    logger.warning("%s is started another way: %s", ctx.name, reason)
    ctx.start_kind = StartKind.COLD
    supervisor.stop(failed, grace=0.5)
    inst = supervisor.new_instance(ctx.home, ctx.name)
    with services.gpu_lease_held(backend=ctx.name, fencing=ctx.fencing):
        services.backend_update(name=ctx.name, instance_id=inst.instance_id)
    gpu_guard.spawn(ctx, inst, lambda: supervisor.spawn(inst, launch))
    ctx.say(f"starting {ctx.engine.title} another way: {reason}", 0.05)
    return inst
