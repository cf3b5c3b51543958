"""The backend that is to stop: its requests finish, then every process of it ends."""

import time
from typing import Final

from backends import leases, services, supervisor
from backends.lifecycle import State
from backends.models import OperationKind
from backends.operations.context import Context
from backends.operations.steps import attached, gpu_guard

#: Seconds between two looks at whether a starting engine is ready (FAULTS 48).
POLL_SECONDS: Final = 0.05
#: Seconds given to holders of leases to return them once cut; they look once a second.
CUT_SECONDS: Final = 2.0


def hold(ctx: Context) -> None:
    """Have new requests wait, in every process, until the new engine serves."""
    if (leaving := ctx.leaving) is not None:
        leases.gate_hold(leaving.name)


def drain(ctx: Context) -> None:
    """Let requests in flight finish, at most ``drainSeconds``; new ones wait, or are refused by a stop."""
    if (leaving := ctx.leaving) is not None:
        _drain(leaving)


def _gate(ctx: Context) -> None:
    """Keep new requests off the backend that is to stop."""
    if ctx.operation.kind == OperationKind.STOP:
        leases.gate_close(ctx.name)
    else:
        leases.gate_hold(ctx.name)


def _drain(ctx: Context) -> None:
    backend = ctx.backend
    _gate(ctx)
    if backend.state not in {State.READY, State.DEGRADED, State.DRAINING}:
        return
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.DRAINING)
    bound = float(getattr(ctx.options, "drainSeconds", 10))
    deadline = time.monotonic() + bound
    while (left := leases.in_flight(backend.name)) and time.monotonic() < deadline:
        _gate(ctx)
        ctx.say(f"waiting for {left} request{'s' if left > 1 else ''} to finish", 0.1)
        ctx.checkpoint()
        time.sleep(POLL_SECONDS)


def release_one(ctx: Context) -> None:
    """Stop the backend of ``ctx``; what still streams from it is cut, and told so."""
    gpu_guard.still_ours(ctx)
    backend = ctx.backend
    if backend.attached:
        attached.release(ctx, cut=cut_requests)
        leases.gate_open(backend.name)
        return
    inst = ctx.instance
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STOPPING)
    cut_requests(backend.name)
    ctx.say(f"stopping {ctx.engine.title}", 0.3)
    held = gpu_guard.note(ctx)
    stop_instances(ctx, inst)
    gpu_guard.give_back(ctx, held)
    services.backend_transition(
        actor=ctx.actor, name=backend.name, to=State.STOPPED, instance_id="", model="", endpoint=""
    )
    leases.gate_open(backend.name)


def cut_requests(backend: str) -> None:
    """End what is still in flight, and give its holders the time to hear of it.

    vLLM that gets TERM with an open stream never ends by itself.
    """
    leases.cut(backend)
    deadline = time.monotonic() + CUT_SECONDS
    while leases.in_flight(backend) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def stop_instances(ctx: Context, current: supervisor.Instance | None) -> None:
    """Stop the known start, and any other of this backend that is still there."""
    gpu_guard.still_ours(ctx)
    instances = supervisor.find(ctx.home, ctx.name)
    if current is not None and current not in instances:
        instances.append(current)
    grace = float(getattr(ctx.options, "stopTimeoutSeconds", 10))  # its program may be gone by now
    for inst in instances:
        supervisor.stop(inst, grace=grace)
