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


def discard_unwanted(ctx: Context) -> None:
    """End what ``begin_ahead`` began and nothing used, where no standby is to be kept."""
    try:
        if not getattr(ctx.options, "standby", False):
            standby.discard_all(ctx.home, ctx.name)
    except (MhError, OSError) as exc:
        logger.warning("standby of %s not ended: %s", ctx.name, exc)


def spawn(ctx: Context, launch: Launch) -> supervisor.Instance:
    """Make the engine's process and record it: a standby that becomes it, or a new one."""
    backend = ctx.backend
    for stray in supervisor.find(ctx.home, backend.name):
        supervisor.stop(stray, grace=launch.stop_timeout)
    if (parked := squatter(ctx, launch.port)) is not None:
        release_one(ctx.on(parked.name))
    chosen = standby.choose(ctx.home, backend.name, ctx.engine.standby(ctx.options))
    if chosen is not None:
        _record(ctx, chosen, launch)
        inst = chosen
        try:
            gpu_guard.spawn(ctx, chosen, lambda: _tell(chosen, launch))
            ctx.start_kind = StartKind.STANDBY
        except StartFailed as exc:
            inst = _instead(ctx, chosen, launch, exc.message)
    else:
        inst = supervisor.new_instance(ctx.home, backend.name)
        with supervisor.keeper_ahead(inst) as ahead:
            _record(ctx, inst, launch)
            gpu_guard.spawn(ctx, inst, lambda: supervisor.spawn(inst, launch, ahead=ahead))
    supervisor.prune(ctx.home, backend.name)
    return inst


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
