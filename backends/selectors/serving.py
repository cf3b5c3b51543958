"""Where a request can be sent, and what is worth waiting for."""

import math
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from accounts.errors import MhError
from backends import (
    lifecycle,
)
from backends.engines.base import Target
from backends.errors import (
    BackendNotRunning,
)
from backends.lifecycle import State
from backends.models import (
    OPEN_OPERATION_STATES,
    SERVING_KINDS,
    Backend,
    Lane,
    Operation,
    OperationKind,
    OperationState,
)
from backends.selectors.expecting import start_seconds_expected
from backends.selectors.options import backend_launch, backend_options, backend_target
from backends.selectors.rows import (
    active_backend,
    active_of,
    backend_engine,
    backend_get,
    backend_list,
    backend_token,
)

#: Seconds after which to try again while the GPU moves: where nothing is known, and at most.
_RETRY_USUAL, _RETRY_MAX = 5, 60


@dataclass(frozen=True, slots=True)
class ServingTarget:
    """A backend that takes requests now."""

    backend: str
    engine: str
    target: Target
    #: Whether it is the one that answers who names none.
    active: bool = False
    #: Which start of the engine, with which model: a lease is taken for this and nothing else.
    token: str = ""
    #: Names it answers to beside its model: adapters.
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a request for a backend that does not serve now is worth waiting, and for how long."""

    backend: str
    #: A sentence for a person.
    reason: str
    eta_seconds: float | None = None
    #: The model it will serve then; empty where that is not known.
    model: str = ""
    #: Whether it has to be asked for: nothing under way brings it about.
    on_demand: bool = False
    #: The model to ask for; empty for the configured one.
    wanted: str = ""


def waits() -> list[Wait]:
    """Return what is worth waiting for: first what an operation under way brings, then what may be asked for."""
    rows = backend_list()
    coming = Operation.objects.filter(
        state__in=OPEN_OPERATION_STATES, kind__in=SERVING_KINDS, cancel_requested=False
    ).select_related("backend")
    found = {row.backend_id: _coming(row) for row in coming if row.backend in rows}
    for row in rows:
        if row.name not in found and comes_on_demand(row):
            found[row.name] = _on_demand(row)
    return list(found.values())


def comes_on_demand(row: Backend) -> bool:
    """Return whether a chat that needs ``row`` may have it started: its owner said so, or it only rests.

    One that gave its memory back because it was idle was not turned off by anybody.
    """
    if backend_options(row).onDemandStart:
        return True
    last = Operation.objects.filter(
        Q(backend=row) | Q(from_backend=row.name), lane=Lane.GPU, state=OperationState.SUCCEEDED
    ).first()
    rests = State(row.state) in {State.PARKED, State.STOPPED}
    return rests and last is not None and last.kind == OperationKind.UNLOAD


def _coming(row: Operation) -> Wait:
    title = backend_engine(row.backend).title
    what = "The GPU is moving to" if row.kind == OperationKind.SWITCH else "Waiting for"
    return Wait(
        backend=row.backend_id,
        reason=f"{what} {title}.",
        eta_seconds=row.eta_seconds,
        model=_model_of(row.backend, row.request),
    )


def _on_demand(row: Backend) -> Wait:
    return Wait(
        backend=row.name,
        reason=f"{backend_engine(row).title} is started on demand.",
        eta_seconds=start_seconds_expected(row, OperationKind.START),
        model=_model_of(row, {}),
        on_demand=True,
    )


def _model_of(row: Backend, changes: dict[str, Any]) -> str:
    try:
        return backend_launch(row, changes).served_model
    except MhError:  # preflight says why
        return ""


def serving_target(name: str | None = None) -> ServingTarget:
    """Return where a request for backend ``name`` (None: the active one) can be sent now.

    Raises:
        UnknownBackend: there is no such backend.
        BackendNotRunning: it is not serving; the message says what it is doing instead.
    """
    backend = backend_get(name) if name else active_backend()
    if backend is None:
        msg = "No engine plugin is installed, so there is no backend to answer."
        raise BackendNotRunning(msg)
    if not lifecycle.is_serving(State(backend.state)):
        raise _not_serving(backend)
    return ServingTarget(
        backend.name, backend.engine, backend_target(backend), token=backend_token(backend)
    )


def _not_serving(backend: Backend) -> BackendNotRunning:
    moving = Operation.objects.filter(
        node=backend.node, kind=OperationKind.SWITCH, state=OperationState.RUNNING
    ).first()
    if moving is None:
        return BackendNotRunning(_why_not_serving(backend), retry_after=_retry_after(backend))
    title = backend_engine(moving.backend).title
    seconds = max(1, min(_RETRY_MAX, math.ceil(moving.eta_seconds or _RETRY_USUAL)))
    msg = f"The GPU is moving to {title}. Try again in {seconds} seconds."
    return BackendNotRunning(msg, code="backend_draining", retry_after=seconds)


def _why_not_serving(backend: Backend) -> str:
    title = backend_engine(backend).title
    match State(backend.state):
        case State.STARTING:
            return f"{title} is starting. Try again when it is ready."
        case State.DRAINING | State.STOPPING:
            return f"{title} is being stopped. Start it again to chat."
        case State.PARKED:
            return f"{title} gave its memory back. Start it again to chat: mh {backend.name} start"
        case State.FAILED:
            return f"{title} failed and is not running. Its owner can start it again."
        case _:
            return f"{title} is not running. Start it on the settings page or with: mh {backend.name} start"


def _retry_after(backend: Backend) -> int | None:
    return 10 if backend.state == State.STARTING else None


def serving_targets() -> list[ServingTarget]:
    """Return every backend that takes requests now, the active one first."""
    rows = backend_list()
    active = active_of(rows)
    found = [
        ServingTarget(
            row.name,
            row.engine,
            backend_target(row),
            row is active,
            token=backend_token(row),
            also=backend_engine(row).also_serves(row.started_options or {}),
        )
        for row in rows
        if lifecycle.is_serving(State(row.state))
    ]
    return sorted(found, key=lambda target: not target.active)
