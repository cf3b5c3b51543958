"""What the steps do about GPU leases and memory, for whoever starts, stops or parks an engine."""

from collections.abc import Callable, Collection
from dataclasses import replace

from backends import gpu_holders, memory, services, supervisor
from backends.errors import OperationLost
from backends.memory import Held
from backends.models import OperationKind
from backends.operations.context import Context


def check_free(ctx: Context, gpus: Collection[int]) -> None:
    """Check that no other backend holds ``gpus``, but for what is stopped first.

    Raises:
        PreflightFailed: one does; code ``gpu_in_use``.
    """
    leaving = ctx.leaving if ctx.operation.kind != OperationKind.START else None
    conflicts = gpu_holders.gpu_conflicts(
        ctx.backend,
        gpu_holders.gpu_names(gpus),
        shares=_shares(ctx),
        leaving=[leaving.name] if leaving else [],
    )
    if conflicts:
        switching = ctx.operation.kind == OperationKind.SWITCH
        raise services.gpu_in_use(ctx.backend, conflicts, switching=switching)


def take(ctx: Context, gpus: Collection[int]) -> None:
    """Take the leases for ``gpus``; whoever ran this operation before may not spawn any more.

    Raises:
        OperationLost: another runner has the operation.
        PreflightFailed: another backend has come to hold one of the GPUs.
    """
    ctx.fencing = services.gpu_lease_take(
        actor=ctx.actor,
        backend=ctx.name,
        gpus=gpus,
        shares=_shares(ctx),
        operation=ctx.operation,
        runner=ctx.runner,
    )


def _shares(ctx: Context) -> bool:
    return bool(getattr(ctx.options, "shareGpu", False))


def spawn(ctx: Context, inst: supervisor.Instance, begin: Callable[[], None]) -> None:
    """Start the process under the lease, and never leave one running that was started without it.

    ``begin`` makes the process of ``inst``, or makes one that waits go on. The number is looked at
    before and after: a runner that was held up in between (a stopped machine, a slow disk) may have
    lost its operation meanwhile.

    Raises:
        OperationLost: another runner has the operation; what was spawned here is gone again.
        StartFailed: its process could not be made.
    """
    services.gpu_lease_check(backend=ctx.name, fencing=ctx.fencing)
    begin()
    try:
        services.gpu_lease_check(backend=ctx.name, fencing=ctx.fencing)
    except OperationLost:
        supervisor.stop(inst, grace=0)
        raise


def still_ours(ctx: Context) -> None:
    """Check, before anything is stopped, that this runner has the operation still.

    Raises:
        OperationLost: another runner has it; what runs now may be what that one started.
    """
    if not services.operation_beat(str(ctx.operation.pk), runner=ctx.runner):
        msg = f"operation {ctx.operation.pk} was taken over by another runner"
        raise OperationLost(msg)


def note(ctx: Context) -> Held:
    """Note what the backend of ``ctx`` holds, before it is stopped or parked."""
    found = supervisor.find(ctx.home, ctx.name)
    current = ctx.instance
    if current is not None and current not in found:
        found.append(current)
    return memory.memory_before(*found)


def give_back(ctx: Context, before: Held, *, parked: bool = False) -> None:
    """Wait until the memory is back, then give the leases back.

    A cancel is not heard here: half a stop is no state to be in. A lost operation is.

    Raises:
        StopFailed: memory or processes are still there after ``memory.RELEASE_SECONDS``.
        OperationLost: another runner has the operation.
    """
    memory.verify_released(
        before,
        parked=parked,
        checkpoint=replace(ctx, deaf=True).checkpoint,
        say=lambda text: ctx.say(text, 0.35),
        timeout=memory.RELEASE_SECONDS,
    )
    services.gpu_lease_release(
        actor=ctx.actor, backend=ctx.name, operation=ctx.operation, runner=ctx.runner
    )
