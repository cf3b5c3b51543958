"""Operations as clients see them."""

import time

from django.conf import settings
from django.db.models import F, QuerySet

from backends.errors import (
    UnknownOperation,
)
from backends.models import (
    OPEN_OPERATION_STATES,
    Lane,
    Operation,
    OperationStep,
)
from backends.payloads import (
    OperationPayload,
    StepPayload,
)
from backends.selectors.rows import iso


def operation_get(operation_id: str) -> Operation:
    """Return one operation.

    Raises:
        UnknownOperation: there is none with this id.
    """
    from django.core.exceptions import ValidationError

    try:
        return Operation.objects.prefetch_related("steps").get(pk=operation_id)
    except (Operation.DoesNotExist, ValidationError) as exc:
        msg = f"There is no operation {operation_id!s:.80}. See GET /api/llm-backend/operations."
        raise UnknownOperation(msg, param="id") from exc


def operations() -> QuerySet[Operation]:
    """Return every operation, newest first."""
    return Operation.objects.prefetch_related("steps").order_by("-created_at", "-id")


def operation_list(limit: int = 50, offset: int = 0) -> list[Operation]:
    """Return operations, newest first."""
    return list(Operation.objects.prefetch_related("steps")[offset : offset + limit])


def operation_current() -> OperationPayload | None:
    """Return the operation that has the GPU of this machine, else the first one waiting for it."""
    row = _open_operations(Lane.GPU).first()
    return operation_payload(row) if row else None


def operation_downloads() -> list[OperationPayload]:
    """Return the downloads and deletions of models on this machine: the running one, then those waiting."""
    return [operation_payload(row) for row in _open_operations(Lane.MODELS)]


def _open_operations(lane: Lane) -> QuerySet[Operation]:
    return (
        Operation.objects.filter(node=settings.MH_NODE, lane=lane, state__in=OPEN_OPERATION_STATES)
        .prefetch_related("steps")
        .order_by(F("started_at").asc(nulls_last=True), "created_at")
    )


def operation_payload(row: Operation) -> OperationPayload:
    """Return ``row`` as clients see it. The engine's own line is for operators, who alone may ask."""
    steps = [_step(step) for step in row.steps.all()]
    return OperationPayload(
        id=str(row.pk),
        kind=row.kind,
        backend=row.backend_id,
        from_backend=row.from_backend or None,
        model=row.request.get("model"),
        state=row.state,
        step=steps[-1]["name"] if steps else None,
        steps=steps,
        progress=round(row.progress, 3),
        eta_seconds=row.eta_seconds,
        requested_by=row.requested_by_name,
        request_id=row.request_id,
        error=row.error,
        created_at=row.created_at.isoformat(),
        finished_at=iso(row.finished_at),
    )


def _step(step: OperationStep) -> StepPayload:
    return StepPayload(
        name=step.name,
        state=step.state,
        started_at=step.started_at.isoformat(),
        finished_at=iso(step.finished_at),
        message=step.message,
    )


def operation_wait(operation_id: str, seconds: float) -> Operation:
    """Return the operation as soon as it has ended, at the latest after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        row = operation_get(operation_id)
        if row.state not in OPEN_OPERATION_STATES or time.monotonic() >= deadline:
            return row
        time.sleep(0.1)


def operation_backend_owner_id(operation_id: str) -> int | None:
    """Return the primary key of the owner of the operation's backend; None if anything is unknown."""
    try:
        return operation_get(operation_id).backend.owner_id
    except UnknownOperation:
        return None
