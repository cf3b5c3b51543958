"""Rows of backends and of the site's choices, and what is directly known of them."""

from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from backends import (
    bus,
    leases,
    lifecycle,
    supervisor,
)
from backends.engines import registry
from backends.engines.base import Engine
from backends.errors import (
    UnknownBackend,
)
from backends.lifecycle import State
from backends.models import (
    Backend,
    Operation,
    OperationKind,
    OperationState,
    Switchboard,
)


def iso(moment: datetime | None) -> str | None:
    """Return a moment as clients read it."""
    return moment.isoformat() if moment else None


def backend_get(name: str) -> Backend:
    """Return the row of backend ``name``.

    Raises:
        UnknownBackend: there is none; the message names those there are.
    """
    found = Backend.objects.filter(name=name).first()
    if found is None:
        names = ", ".join(Backend.objects.values_list("name", flat=True)) or "none"
        msg = f"There is no backend called {name[:80]!r}. Backends here: {names}."
        raise UnknownBackend(msg, param="backend")
    return found


def backend_list() -> list[Backend]:
    """Return the backends by name; one whose plugin is gone is kept in the database and not shown."""
    return list(Backend.objects.filter(engine__in=engine_names()))


def engine_names() -> list[str]:
    """Return the names of the engine plugins that work here."""
    return sorted(registry.engines())


def backend_engine(backend: Backend) -> Engine:
    """Return the plugin that runs ``backend``."""
    return registry.engine(backend.engine)


def backend_answers(backend: Backend) -> bool:
    """Return whether a server of ``backend`` that we know of should answer about its models."""
    return State(backend.state) in {State.READY, State.DEGRADED, State.DRAINING, State.PARKED}


def backend_instance(backend: Backend) -> supervisor.Instance | None:
    """Return the running start of ``backend``, or None when it has none."""
    if not backend.instance_id:
        return None
    return supervisor.instance(settings.MH_HOME, backend.name, backend.instance_id)


def backend_token(backend: Backend) -> str:
    """Return what tells one start and model of a backend from every other."""
    return f"{backend.instance_id or backend.endpoint}:{backend.model}"


def switchboard() -> Switchboard:
    """Return the row of site-wide choices."""
    return Switchboard.objects.select_related("active_backend").get_or_create(pk=1)[0]


def active_backend() -> Backend | None:
    """Return the active backend: the one chosen, else the first there is."""
    return active_of(backend_list())


def active_of(rows: list[Backend]) -> Backend | None:
    """Return the active one of ``rows``: the one chosen, else the first."""
    # Every chat passes here: no row is made where there is none yet.
    chosen = Switchboard.objects.filter(pk=1).values_list("active_backend_id", flat=True).first()
    return next((row for row in rows if row.pk == chosen), next(iter(rows), None))


def in_flight(name: str) -> int:
    """Return how many requests are in flight to backend ``name``."""
    return leases.in_flight(name)


def worker_alive() -> bool:
    """Return whether a worker of this GPU machine is running."""
    return bus.worker_alive(settings.MH_NODE)


def last_snapshot() -> dict[str, Any]:
    """Return what the observer of this machine saw last; empty when nothing recent is there."""
    return bus.snapshot_read(settings.MH_NODE) or {}


def stop_is_asked(name: str) -> bool:
    """Return whether a stop of backend ``name`` waits for its turn."""
    return Operation.objects.filter(
        backend=name, kind=OperationKind.STOP, state=OperationState.QUEUED
    ).exists()


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(tz=UTC)


def backend_owner_id(name: str) -> int | None:
    """Return the primary key of the owner of backend ``name``; None without one, or without a backend."""
    return Backend.objects.filter(name=name).values_list("owner_id", flat=True).first()


def backend_is_running(backend: Backend) -> bool:
    """Return whether the engine of ``backend`` takes requests."""
    return lifecycle.is_serving(State(backend.state))


def backend_is_alive(backend: Backend) -> bool:
    """Return whether a process of the engine of ``backend`` exists or may exist."""
    return lifecycle.is_alive(State(backend.state))
