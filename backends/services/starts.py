"""The record of starts that succeeded: what estimates are made from."""

from collections.abc import Mapping
from typing import Any

from backends import selectors
from backends.models import Backend, StartRecord

#: Records kept of each backend.
_KEPT = 200


def start_keep(
    *,
    name: str,
    kind: str,
    model: str,
    options: Mapping[str, Any],
    seconds: float,
    planned_bytes: int | None = None,
) -> StartRecord:
    """Record a start of backend ``name`` that succeeded.

    Args:
        name: the backend.
        kind: a ``StartKind``.
        model: what it serves now.
        options: those that were set; no secrets.
        seconds: from the first thing done to start it until it answered.
        planned_bytes: what its plan had said.
    """
    backend = Backend.objects.get(pk=name)
    row = StartRecord.objects.create(
        backend=backend,
        kind=kind,
        model=model,
        options=dict(options),
        version=backend.version,
        seconds=seconds,
        planned_bytes=planned_bytes,
        created_at=selectors.now(),
    )
    old = StartRecord.objects.filter(backend=backend).values_list("pk", flat=True)[_KEPT:]
    StartRecord.objects.filter(pk__in=list(old)).delete()
    return row
