"""Which steps each kind of operation takes, in order. DESIGN.md gives the whole row of a switch."""

from collections.abc import Callable
from typing import Final

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

PULL: Final[tuple[Step, ...]] = (steps.download,)
DELETE: Final[tuple[Step, ...]] = (steps.delete,)

PLANS: Final[dict[str, tuple[Step, ...]]] = {
    OperationKind.START: START,
    OperationKind.STOP: STOP,
    OperationKind.RESTART: RESTART,
    OperationKind.SWITCH: SWITCH,
    OperationKind.PULL: PULL,
    OperationKind.DELETE: DELETE,
}


def step_name(step: Step) -> str:
    """Return the name a step is recorded under."""
    return step.__name__
