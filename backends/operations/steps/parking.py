"""A backend that gives its memory back without dying, and its return.

Parking is tried where the options say so and the engine can; whatever goes wrong, the engine is
stopped, and on its way back started anew. Nobody has to know which it was.
"""

import logging
from dataclasses import replace
from typing import Final

import httpx

from accounts.errors import MhError
from backends import leases, selectors, services, supervisor
from backends.errors import OperationCancelled, OperationLost
from backends.launch_spec import WAKING, Change
from backends.lifecycle import State
from backends.memory import Held
from backends.models import Backend, OperationKind, StartKind
from backends.operations.context import Context
from backends.operations.steps import gpu_guard
from backends.operations.steps.stopping import cut_requests, release_one

logger = logging.getLogger(__name__)

#: Seconds that parking may take at least; moving weights to host memory takes its time.
PARK_SECONDS: Final = 30.0
#: Kinds after which the backend may be wanted again as it was.
_PARKING_KINDS: Final = frozenset({OperationKind.SWITCH, OperationKind.UNLOAD})


def release(ctx: Context) -> None:
    """Have the engine give its memory back: parked, or with no process left and its port free."""
    leaving = ctx.leaving
    if leaving is None:
        return
    if ctx.operation.kind in _PARKING_KINDS and leaving.backend.state == State.PARKED:
        return  # by a runner before this one
    if not (_may_park(ctx, leaving) and _park(leaving)):
        release_one(leaving)


def _may_park(ctx: Context, leaving: Context) -> bool:
    """Return whether ``leaving`` may stay alive: wanted, possible, and not in the way of the new one."""
    backend = leaving.backend
    if ctx.operation.kind not in _PARKING_KINDS or backend.state == State.STOPPING:
        return False
    if backend.attached:  # which is never stopped where it can be parked
        return False
    options = leaving.options
    if options.parking == "stop" or not leaving.engine.can_park(options):
        return False
    if ctx.operation.kind == OperationKind.UNLOAD:
        return True
    return leaving.name != ctx.name and backend.endpoint != ctx.launch.endpoint


def _park(leaving: Context) -> bool:
    """Park the engine; False when it could not be, which is then to be stopped."""
    backend = leaving.backend
    cut_requests(backend.name)
    leaving.say(f"parking {leaving.engine.title}", 0.3)
    timeout = max(PARK_SECONDS, leaving.launch.stop_timeout)
    try:
        held = gpu_guard.note(leaving)
        target = replace(selectors.backend_target(backend), options=leaving.options)
        leaving.engine.park(target, timeout=timeout)
        _memory_is_back(leaving, held)
    except OperationLost:
        raise
    except (MhError, httpx.HTTPError, OSError, ValueError, NotImplementedError) as exc:
        logger.warning("%s cannot be parked and is stopped: %s", backend.name, exc)
        return False
    services.backend_transition(actor=leaving.actor, name=backend.name, to=State.PARKED)
    services.step_message(
        leaving.operation,
        leaving.step,
        f"{leaving.engine.title} is parked: its memory is free, and it comes back quickly",
    )
    leases.gate_open(backend.name)
    return True


def _memory_is_back(leaving: Context, held: Held) -> None:
    """Check what parking promises, and give the GPUs back; raises ``StopFailed`` where it is not so."""
    gpu_guard.give_back(leaving, held, parked=True)


def is_parked(ctx: Context) -> bool:
    """Return whether the backend is parked, or was and is being woken by a runner before this one."""
    backend = ctx.backend
    waking = WAKING in (backend.started_options or {})
    return backend.state == State.PARKED or (backend.state == State.STARTING and waking)


def unparked(ctx: Context) -> bool:
    """Wake the parked engine, if it is one, and have it answer.

    Returns:
        False when there is nothing to wake, or what there was has been stopped: it is to be started.

    Raises:
        OperationCancelled, OperationLost.
    """
    if not is_parked(ctx):
        return False
    if _is_usable(ctx) and _wake(ctx):
        return True
    release_one(ctx)
    return False


def _is_usable(ctx: Context) -> bool:
    """Return whether the parked process lives and was started as would be done now."""
    backend, inst = ctx.backend, ctx.instance
    if selectors.backend_difference(backend, ctx.options).change == Change.RESTART:
        return False
    return inst is not None and supervisor.inspect(inst).alive


def _wake(ctx: Context) -> bool:
    backend, launch = ctx.backend, ctx.launch
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STARTING)
    started = ctx.started_options
    services.backend_update(
        name=backend.name, model=launch.served_model, started_options=started | {WAKING: True}
    )
    leases.gate_open(backend.name)
    ctx.spawned = True
    ctx.say(f"waking {ctx.engine.title}", 0.3)
    try:
        if launch.warm or not ctx.engine.capabilities.many_models:
            ctx.engine.unpark(ctx.target, timeout=launch.start_timeout, cancelled=_watch(ctx))
            ctx.engine.warm_up(ctx.target, timeout=launch.start_timeout, cancelled=_watch(ctx))
            ctx.warmed = True
    except (OperationCancelled, OperationLost):
        raise
    except (MhError, httpx.HTTPError, OSError, ValueError, NotImplementedError) as exc:
        logger.warning("%s does not wake and is started anew: %s", backend.name, exc)
        return False
    services.backend_update(name=backend.name, started_options=started)
    ctx.start_kind = StartKind.UNPARK
    return True


def may_be_parked(ctx: Context, old: Context) -> bool:
    """Return whether ``old``, which drains, may have been parked by a runner that did not come to say so."""
    begun = ctx.operation.steps.filter(name="release").exists()
    return begun and old.backend.state == State.DRAINING and _may_park(ctx, old)


def finish_unload(ctx: Context) -> None:
    """Give the memory back after all, where an unload was ended in the middle of that."""
    if ctx.backend.state in {State.DRAINING, State.STOPPING}:
        release(replace(ctx, deaf=True))


def _watch(ctx: Context) -> "_Watch":
    return _Watch(ctx)


class _Watch:
    """Ends the wait for an engine when the operation was cancelled, or the engine has ended."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._inst = ctx.instance

    def __call__(self) -> bool:
        self._ctx.checkpoint()
        if self._inst is not None and not supervisor.inspect(self._inst).alive:
            msg = f"{self._ctx.engine.title} ended"
            raise ConnectionError(msg)
        return False


def squatter(ctx: Context, port: int) -> Backend | None:
    """Return the parked backend that holds the port this one needs; None where none does."""
    for row in selectors.backend_list():
        if row.pk == ctx.name or row.node != ctx.backend.node or row.state != State.PARKED:
            continue
        inst = selectors.backend_instance(row)
        if inst is not None and supervisor.owns_listener(inst, port):
            return row
    return None
