"""The history of operations, chosen by filters, and how long switches took."""

from datetime import timedelta
from typing import Any, Final, TypedDict

from django.db.models import Q, QuerySet

from accounts.models import User
from backends.models import OPEN_OPERATION_STATES, SERVING_KINDS, Operation, OperationState
from backends.selectors.rows import now
from backends.timeline import Took

#: Operations of the last month that the picture shows at most.
_MOST: Final = 2000


class OperationFilters(TypedDict, total=False):
    """What operations can be chosen by. Absent and empty mean all."""

    kind: str
    backend: str
    state: str
    by: str


def operation_history(filters: OperationFilters, user: User | None = None) -> QuerySet[Operation]:
    """Return the operations chosen, newest first.

    Args:
        filters: what to choose by; ``by`` is a part of the name of who asked.
        user: only those on backends of this user; None for all.
    """
    query = Operation.objects.prefetch_related("steps").select_related("backend")
    exact: dict[str, Any] = {
        key: filters[key] for key in ("kind", "backend", "state") if filters.get(key)
    }
    if filters.get("by"):
        query = query.filter(Q(requested_by_name__icontains=filters["by"]))
    if user is not None:
        query = query.filter(backend__owner=user)
    return query.filter(**exact).order_by("-created_at")


def operations_took(days: int = 30) -> list[Took]:
    """Return what made something serve in the last ``days``, ended, newest first."""
    rows = Operation.objects.filter(
        kind__in=SERVING_KINDS, finished_at__gte=now() - timedelta(days=days)
    ).exclude(state__in=[*OPEN_OPERATION_STATES, OperationState.CANCELLED])
    return [
        Took(
            id=str(row.pk),
            finished_at=row.finished_at,
            seconds=(row.finished_at - (row.started_at or row.created_at)).total_seconds(),
            backend=row.backend_id,
            kind=row.kind,
            succeeded=row.state == OperationState.SUCCEEDED,
        )
        for row in rows.order_by("-finished_at")[:_MOST]
        if row.finished_at is not None
    ]


def backends_owned(user: User) -> bool:
    """Return whether ``user`` owns a backend."""
    from backends.models import Backend

    return Backend.objects.filter(owner=user).exists()
