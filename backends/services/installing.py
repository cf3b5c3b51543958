"""Engines brought onto this machine, as operations."""

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.permissions import Permission
from audit import access
from audit.models import Category
from audit.services import event_record
from backends import selectors
from backends.errors import CannotDo, WorkerUnavailable
from backends.models import OPEN_OPERATION_STATES, Backend, Operation, OperationKind
from backends.services.asking import backend_for, operation_create, refused
from backends.services.repeating import key_keep, operation_repeated


def engine_install(*, actor: Actor, name: str, foreground: bool = False) -> Operation:
    """Ask for the engine of backend ``name`` to be installed, or what an earlier installation left undone.

    Returns at once with the operation; asking again while one runs joins it.

    Args:
        actor: who asks; needs ``backends:operate`` for the whole site.
        name: the backend.
        foreground: the caller runs the operation itself, so no worker is needed.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, WorkerUnavailable.
        CannotDo: mh does not install this engine; the message says how people do.
    """
    kind = OperationKind.INSTALL
    install_check(actor=actor, name=name)
    backend = backend_for(actor, name, kind)
    if made := operation_repeated(actor):
        return made
    try:
        _check(backend, foreground=foreground)
        with transaction.atomic():
            return _create_or_join(actor, backend)
    except MhError as exc:
        refused(actor, name, kind, exc.message)
        raise


def install_check(*, actor: Actor, name: str) -> None:
    """Check that ``actor`` may install: it is the machine that changes, so owning one backend is not enough."""
    access.require(actor, Permission.BACKENDS_OPERATE, target_type="backend", target_id=name[:80])


def _check(backend: Backend, *, foreground: bool) -> None:
    engine = selectors.backend_engine(backend)
    if not engine.installs_itself:
        how = f" Run: {engine.install_command}" if engine.install_command else ""
        raise CannotDo(f"{engine.title} is not installed by mh.{how}")
    if not foreground and not selectors.worker_alive():
        msg = (
            f"No worker of GPU machine {backend.node!r} is running, so nothing can be installed. Start the "
            "site with: mh up"
        )
        raise WorkerUnavailable(msg, retry_after=5)


def _create_or_join(actor: Actor, backend: Backend) -> Operation:
    backend = Backend.objects.select_for_update().get(pk=backend.pk)
    running = Operation.objects.filter(
        backend=backend,
        kind=OperationKind.INSTALL,
        state__in=OPEN_OPERATION_STATES,
        cancel_requested=False,
    ).first()
    if running is None:
        return operation_create(actor, backend, OperationKind.INSTALL, {}, "")
    key_keep(actor, running)
    event_record(
        actor=actor,
        event="operation.joined",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(running.pk),
        message=f"{running.kind} {backend.name}",
    )
    return running
