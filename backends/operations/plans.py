"""Which steps each kind of operation takes, in order. DESIGN.md gives the whole row of a switch."""

from collections.abc import Callable
from typing import Final

from backends.launch_spec import Change
from backends.models import OperationKind
from backends.operations import steps
from backends.operations.context import Context

Step = Callable[[Context], None]

START: Final[tuple[Step, ...]] = (
    steps.preflight,
    steps.start,
    steps.warm,
    steps.commit,
    steps.resume,
)
STOP: Final[tuple[Step, ...]] = (steps.drain, steps.release)
RESTART: Final[tuple[Step, ...]] = (
    steps.preflight,
    steps.hold,
    steps.drain,
    steps.release,
    steps.start,
    steps.warm,
    steps.commit,
    steps.resume,
)

#: The same, where what stops and what starts are two backends.
SWITCH: Final[tuple[Step, ...]] = RESTART


def _changing() -> tuple[Step, ...]:
    """Return the steps of a restart, and in their places those that load a model without one."""
    row = list(RESTART)
    row.insert(row.index(steps.warm), steps.load)
    row.insert(row.index(steps.warm) + 1, steps.unload)
    return tuple(row)


#: All that changing the model, or applying the configuration, may take: see ``is_needed``.
CHANGE: Final[tuple[Step, ...]] = _changing()

#: Gives memory back, if nobody uses it.
UNLOAD: Final[tuple[Step, ...]] = (steps.settle, steps.release)

#: The steps of ``CHANGE`` that are taken, by what it takes; others always are.
_NEEDED: Final[dict[Step, frozenset[Change]]] = {
    steps.release: frozenset({Change.RESTART}),
    steps.start: frozenset({Change.RESTART}),
    steps.load: frozenset({Change.LOAD}),
    steps.unload: frozenset({Change.LOAD}),
}

PULL: Final[tuple[Step, ...]] = (steps.download,)
DELETE: Final[tuple[Step, ...]] = (steps.delete,)
INSTALL: Final[tuple[Step, ...]] = (steps.install,)

PLANS: Final[dict[str, tuple[Step, ...]]] = {
    OperationKind.START: START,
    OperationKind.STOP: STOP,
    OperationKind.RESTART: RESTART,
    OperationKind.SWITCH: SWITCH,
    OperationKind.CHANGE_MODEL: CHANGE,
    OperationKind.APPLY: CHANGE,
    OperationKind.UNLOAD: UNLOAD,
    OperationKind.PULL: PULL,
    OperationKind.DELETE: DELETE,
    OperationKind.INSTALL: INSTALL,
}


def is_needed(step: Step, ctx: Context) -> bool:
    """Return whether ``step`` is taken: of a change, only those that what changed takes."""
    if PLANS[ctx.operation.kind] is not CHANGE or step is steps.preflight:
        return True
    if ctx.change == Change.NOTHING:
        return step is steps.commit or (step is steps.resume and _holds(ctx))
    return ctx.change in _NEEDED.get(step, frozenset(Change))


def _holds(ctx: Context) -> bool:
    """Return whether requests wait: for a runner that died once all was done, but before it let them go on."""
    return ctx.operation.steps.filter(name=step_name(steps.hold)).exists()


def step_name(step: Step) -> str:
    """Return the name a step is recorded under."""
    return step.__name__
