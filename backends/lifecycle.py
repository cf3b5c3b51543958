"""The states of a backend and the moves between them. Pure: imports nothing of ours, does no I/O."""

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What a backend is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    PARKED = "parked"
    STOPPING = "stopping"
    FAILED = "failed"


class Health(StrEnum):
    """What clients are told about a backend; coarser than ``State``."""

    HEALTHY = "healthy"
    STARTING = "starting"
    DEGRADED = "degraded"
    OFFLINE = "offline"


#: From each state, the states it may move to.
MOVES: Final[dict[State, frozenset[State]]] = {
    State.STOPPED: frozenset({State.STARTING, State.READY}),
    State.STARTING: frozenset({State.READY, State.STOPPING, State.FAILED}),
    State.READY: frozenset(
        {State.DEGRADED, State.DRAINING, State.PARKED, State.STOPPING, State.FAILED}
    ),
    State.DEGRADED: frozenset({State.READY, State.DRAINING, State.STOPPING, State.FAILED}),
    State.DRAINING: frozenset({State.READY, State.PARKED, State.STOPPING, State.FAILED}),
    State.PARKED: frozenset({State.STARTING, State.READY, State.STOPPING, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.FAILED}),
    State.FAILED: frozenset({State.STARTING, State.STOPPING, State.STOPPED}),
}

#: States in which a process of the engine exists or may exist.
ALIVE: Final = frozenset(
    {
        State.STARTING,
        State.READY,
        State.DEGRADED,
        State.DRAINING,
        State.PARKED,
        State.STOPPING,
    }
)
#: States in which requests may be sent to the engine.
SERVING: Final = frozenset({State.READY, State.DEGRADED})
#: States in which it is looked whether an engine answers that no operation of ours has started.
FINDABLE: Final = frozenset({State.STOPPED, State.FAILED})
#: States from which an engine that somebody else runs can be gone, without any stopping of ours.
LOSABLE: Final = frozenset(
    {State.STARTING, State.READY, State.DEGRADED, State.DRAINING, State.PARKED, State.FAILED}
)

_HEALTH: Final[dict[State, Health]] = {
    State.STOPPED: Health.OFFLINE,
    State.STARTING: Health.STARTING,
    State.READY: Health.HEALTHY,
    State.DEGRADED: Health.DEGRADED,
    State.DRAINING: Health.HEALTHY,
    State.PARKED: Health.OFFLINE,
    State.STOPPING: Health.OFFLINE,
    State.FAILED: Health.OFFLINE,
}


def may_move(old: State, new: State) -> bool:
    """Return whether a backend may go from ``old`` to ``new``. Staying is not a move."""
    return new in MOVES[old]


def sources_of(new: State) -> frozenset[State]:
    """Return the states from which ``new`` may be reached."""
    return frozenset(old for old, targets in MOVES.items() if new in targets)


def health_of(state: State) -> Health:
    """Return what clients are told about a backend in ``state``."""
    return _HEALTH[state]


def is_alive(state: State) -> bool:
    """Return whether a process of the engine exists or may exist in ``state``."""
    return state in ALIVE


def is_serving(state: State) -> bool:
    """Return whether requests may be sent to the engine in ``state``."""
    return state in SERVING


def after_missed_probes(state: State, missed: int, *, degraded_after: int = 3) -> State:
    """Return the state after ``missed`` health probes in a row got no good answer.

    One missed probe changes nothing; ``degraded_after`` of them make a ready backend degraded. A
    process that exited is known from its exit record, not from missed probes.
    """
    if state == State.READY and missed >= degraded_after:
        return State.DEGRADED
    if state == State.DEGRADED and missed == 0:
        return State.READY
    return state
