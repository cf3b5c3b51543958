"""GPU leases: taken before an engine is spawned, given back when its memory is verified to be back.

Every take counts the fencing number up. Who acts on a GPU shows the number it got, in the transaction
of what it writes; one that is not the newest belongs to a runner that lost its operation.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from django.db import transaction

from accounts.actors import Actor
from audit.models import Category
from audit.services import event_record
from backends import selectors
from backends.errors import OperationLost, PreflightFailed
from backends.gpu_holders import HOST, Conflict, gpu_conflicts, gpu_in_words, gpu_names, holds
from backends.lifecycle import State
from backends.models import Backend, GpuLease, Operation, OperationState
from backends.services.states import backend_transition


def gpu_lease_take(
    *,
    actor: Actor,
    backend: str,
    gpus: Collection[int],
    shares: bool = False,
    operation: Operation | None = None,
    runner: str = "",
) -> int:
    """Give ``backend`` the leases on the GPUs with the numbers ``gpus``, and on no others.

    Without numbers it is the lease on the machine's memory, which everybody shares. Holders that do not
    live any more are dropped. Taking again what one holds is how a new runner shuts out the one before.

    Args:
        actor: for the audit.
        backend: who is to hold them.
        gpus: numbers, as ``Launch.gpus``.
        shares: whether it lets others that say so as well hold them at the same time.
        operation: on whose behalf.
        runner: who runs ``operation``.

    Returns:
        The fencing number to show to ``gpu_lease_check``.

    Raises:
        OperationLost: another runner has the operation.
        PreflightFailed: another backend holds one of them; code ``gpu_in_use``.
    """
    names = gpu_names(gpus)
    with transaction.atomic():
        row = Backend.objects.get(name=backend)
        _must_hold(operation, runner)
        for name in names:
            GpuLease.objects.get_or_create(node=row.node, gpu=name)
        leases = list(GpuLease.objects.select_for_update().filter(node=row.node))
        if conflicts := gpu_conflicts(row, names, shares=shares):
            raise gpu_in_use(row, conflicts)
        number = max(lease.fencing for lease in leases) + 1
        for lease in leases:
            others = _living(lease, backend)
            if lease.gpu in names:
                lease.holders, lease.fencing = [*others, backend], number
                lease.operation, lease.taken_at = operation, selectors.now()
                lease.save()
            elif others != lease.holders:
                lease.holders = others
                lease.save(update_fields=["holders"])
        _event(actor, backend, "taken", names, fencing=number)
    return number


def _living(lease: GpuLease, backend: str) -> list[str]:
    """Return the other holders of a lease that have a claim to it still."""
    rows = Backend.objects.filter(name__in=lease.holders).exclude(name=backend)
    claims = {row.name for row in rows if holds(row)}
    return [name for name in lease.holders if name in claims]


def _must_hold(operation: Operation | None, runner: str) -> None:
    if operation is None:
        return
    held = Operation.objects.select_for_update().filter(
        pk=operation.pk, runner=runner, state=OperationState.RUNNING
    )
    if not held:
        msg = f"operation {operation.pk} was taken over by another runner"
        raise OperationLost(msg)


def gpu_in_use(
    backend: Backend, conflicts: Collection[Conflict], *, switching: bool = False
) -> PreflightFailed:
    """Return the refusal that names who holds what, and says what to do instead."""
    holder = next(iter(conflicts)).holder
    title = selectors.backend_engine(holder).title
    what = ", ".join(dict.fromkeys(gpu_in_words(item.gpu) for item in conflicts))
    pids = next(iter(conflicts)).pids
    if pids:
        listed = ", ".join(map(str, pids))
        msg = (
            f"{title} failed to stop, and its processes {listed} may still hold {what}. Stop it again: "
            f"mh backend stop {holder.name}"
        )
    elif switching:
        msg = f"{title} holds {what} as well. Stop it first: mh backend stop {holder.name}"
    else:
        msg = f"{title} holds {what}. Switch instead: mh backend switch {backend.name}"
    return PreflightFailed(msg, code="gpu_in_use", param="backend")


def gpu_lease_check(*, backend: str, fencing: int) -> None:
    """Check that ``fencing`` is still the newest number on every GPU ``backend`` holds.

    Inside a transaction it stays so until that ends.

    Raises:
        OperationLost: somebody has taken the lease since, or it was given back.
    """
    with transaction.atomic():
        rows = [row for row in GpuLease.objects.select_for_update() if backend in row.holders]
        if not rows or any(row.fencing != fencing for row in rows):
            newest = max((row.fencing for row in rows), default=None)
            msg = f"the GPU lease of {backend} is number {newest}, and not {fencing} any more"
            raise OperationLost(msg)


@contextmanager
def gpu_lease_held(*, backend: str, fencing: int) -> Iterator[None]:
    """Do what the body writes only under the lease: checked before, in the same transaction.

    Raises:
        As ``gpu_lease_check``.
    """
    with transaction.atomic():
        gpu_lease_check(backend=backend, fencing=fencing)
        yield


def gpu_lease_release(
    *, actor: Actor, backend: str, operation: Operation | None = None, runner: str = ""
) -> None:
    """Give back every lease of ``backend``. Does nothing where it has none.

    Raises:
        OperationLost: another runner has ``operation``.
    """
    with transaction.atomic():
        _must_hold(operation, runner)
        held = [row for row in GpuLease.objects.select_for_update() if backend in row.holders]
        for row in held:
            row.holders = [name for name in row.holders if name != backend]
            row.save(update_fields=["holders"])
        if held:
            _event(actor, backend, "released", [row.gpu for row in held])


def backend_lost(
    *,
    actor: Actor,
    name: str,
    expected: State,
    failure: str,
    failure_detail: str,
    cleared: bool,
) -> None:
    """Say that a backend ended by itself; with its leases, where nothing of it is left.

    Both or neither: where an operation has moved it from ``expected`` meanwhile, the lease may be that
    of the next start.
    """
    with transaction.atomic():
        moved = backend_transition(
            actor=actor,
            name=name,
            to=State.FAILED,
            expected=expected,
            failure=failure,
            failure_detail=failure_detail,
            instance_id="",
            model="",
            endpoint="",
        )
        if moved and cleared:
            gpu_lease_release(actor=actor, backend=name)


def _event(
    actor: Actor, backend: str, what: str, names: Collection[str], fencing: int | None = None
) -> None:
    facts = {"gpus": sorted(names)} | ({"fencing": fencing} if fencing is not None else {})
    where = "the machine's memory" if set(names) == {HOST} else ", ".join(sorted(names))
    event_record(
        actor=actor,
        event=f"gpu.lease_{what}",
        category=Category.BACKEND,
        target_type="backend",
        target_id=backend,
        message=where,
        after=facts if what == "taken" else None,
        before=facts if what == "released" else None,
    )
