"""How long a start should take, from past ones."""

from statistics import median

from accounts.errors import MhError
from backends.lifecycle import State
from backends.models import (
    SERVING_KINDS,
    Backend,
    Operation,
    OperationKind,
    OperationState,
    StartKind,
    StartRecord,
)
from backends.selectors.options import backend_launch
from backends.selectors.rows import backend_engine, backend_is_running

#: How many of the past an estimate is made from.
_PAST = 5


def start_seconds_expected(backend: Backend, kind: str, model: str | None = None) -> float | None:
    """Return how long it should take until ``backend`` is ready, in seconds; None where nothing is known.

    The median of its last five starts with ``model`` of the way it would be started now; of any
    model, where there are none; else of operations of this ``kind``.
    """
    if kind in SERVING_KINDS:
        ways = _start_kinds(backend, kind)
        records = StartRecord.objects.filter(backend=backend, kind__in=ways)
        for rows in (records.filter(model=model or _model_wanted(backend)), records):
            if spans := list(rows.values_list("seconds", flat=True)[:_PAST]):
                return median(spans)
    return _operation_seconds(backend, kind)


def _start_kinds(backend: Backend, kind: str) -> tuple[str, ...]:
    if backend.state == State.PARKED:
        return (StartKind.UNPARK,)
    loads = kind in {OperationKind.CHANGE_MODEL, OperationKind.APPLY}
    if loads and backend_engine(backend).capabilities.many_models and backend_is_running(backend):
        return (StartKind.LOAD,)
    return (StartKind.COLD, StartKind.STANDBY)


def _model_wanted(backend: Backend) -> str:
    try:
        return backend_launch(backend).served_model
    except MhError:  # preflight says why
        return backend.model


def _operation_seconds(backend: Backend, kind: str) -> float | None:
    spans = [
        (row.finished_at - row.started_at).total_seconds()
        for row in Operation.objects.filter(
            backend=backend, kind=kind, state=OperationState.SUCCEEDED
        )[:_PAST]
        if row.finished_at and row.started_at
    ]
    return median(spans) if spans else None
