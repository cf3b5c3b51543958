"""Before memory is given back because nobody uses it: is that so, and does it stay so?"""

from backends import leases, services
from backends.errors import OperationCancelled
from backends.lifecycle import State
from backends.operations.context import Context


def settle(ctx: Context) -> None:
    """Close the gate if no request is in flight, in one move; a request that came first wins.

    Raises:
        OperationCancelled: somebody uses the backend, or has since this was asked for.
    """
    backend = ctx.backend
    if backend.state == State.DRAINING:  # by a runner before this one
        leases.gate_hold(backend.name)
        return
    asked = ctx.operation.created_at.timestamp()
    used = leases.last_used(backend.name)
    if backend.state != State.READY or (used is not None and used > asked):
        msg = f"{ctx.engine.title} is in use again, so it keeps its memory."
        raise OperationCancelled(msg)
    if not leases.gate_hold_if_idle(backend.name):
        msg = f"{ctx.engine.title} is in use, so it keeps its memory."
        raise OperationCancelled(msg)
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.DRAINING)
