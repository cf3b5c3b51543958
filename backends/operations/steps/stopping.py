"""The backend that is to stop: its requests finish, then every process of it ends."""

import time
from typing import Final

from backends import leases, services, supervisor
from backends.lifecycle import State
from backends.models import OperationKind
from backends.operations.context import Context

#: Seconds between two looks at whether a starting engine is ready (FAULTS 48).
POLL_SECONDS: Final = 0.05
#: Seconds given to holders of leases to return them once cut; they look once a second.
CUT_SECONDS: Final = 2.0


def drain(ctx: Context) -> None:
    """Refuse new requests and let those in flight finish, at most ``drainSeconds``."""
    if (leaving := ctx.leaving) is not None:
        _drain(leaving)


def _drain(ctx: Context) -> None:
    backend = ctx.backend
    leases.gate_close(backend.name)
    if backend.state not in {State.READY, State.DEGRADED, State.DRAINING}:
        return
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.DRAINING)
    bound = float(getattr(ctx.options, "drainSeconds", 10))
    deadline = time.monotonic() + bound
    while (left := leases.in_flight(backend.name)) and time.monotonic() < deadline:
        leases.gate_close(backend.name)
        ctx.say(f"waiting for {left} request{'s' if left > 1 else ''} to finish", 0.1)
        ctx.checkpoint()
        time.sleep(POLL_SECONDS)


def release_one(ctx: Context) -> None:
    """Stop the backend of ``ctx``; what still streams from it is cut, and told so."""
    backend = ctx.backend
    inst = ctx.instance
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STOPPING)
    cut_requests(backend.name)
    ctx.say(f"stopping {ctx.engine.title}", 0.3)
    stop_instances(ctx, inst)
    services.backend_transition(
        actor=ctx.actor, name=backend.name, to=State.STOPPED, instance_id="", model="", endpoint=""
    )
    if ctx.operation.kind != OperationKind.SWITCH:
        # Who still holds a route to what a switch has stopped must hear so; the gate opens with a start.
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
    instances = supervisor.find(ctx.home, ctx.name)
    if current is not None and current not in instances:
        instances.append(current)
    grace = ctx.launch.stop_timeout
    for inst in instances:
        supervisor.stop(inst, grace=grace)
