"""Writes: state moves, operations asked for and recorded, configuration. Each with its audit event."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from accounts.actors import Actor
from accounts.permissions import Permission, is_allowed
from audit import access
from audit.models import Category, Level, Outcome
from audit.services import event_record
from backends import bus, config_file, lifecycle, secrets, selectors
from backends.engines.registry import engines
from backends.errors import (
    InvalidOptions,
    OperationConflict,
    OperationLost,
    PreflightFailed,
    UnknownBackend,
    WorkerUnavailable,
)
from backends.lifecycle import State
from backends.models import (
    OPEN_OPERATION_STATES,
    Backend,
    Operation,
    OperationKind,
    OperationState,
    OperationStep,
    StepState,
    Switchboard,
)

logger = logging.getLogger(__name__)

_FINISHED_LEVEL: Final = {
    OperationState.SUCCEEDED: (Level.INFO, Outcome.SUCCESS),
    OperationState.CANCELLED: (Level.WARNING, Outcome.SUCCESS),
    OperationState.FAILED: (Level.ERROR, Outcome.FAILURE),
    OperationState.ROLLED_BACK: (Level.ERROR, Outcome.FAILURE),
}


# --- rows ---------------------------------------------------------------------------------------


def backends_ensure() -> None:
    """Make a row for every engine plugin that has none. Idempotent."""
    for name, engine in engines().items():
        _, created = Backend.objects.get_or_create(
            name=name,
            defaults={"engine": name, "node": settings.MH_NODE, "state_since": selectors.now()},
        )
        if created:
            logger.info("backend %s (%s) added", name, engine.title)
    Backend.objects.exclude(node=settings.MH_NODE).filter(instance_id="").update(
        node=settings.MH_NODE
    )
    selectors.switchboard()


def status_publish() -> None:
    """Send the whole status to every browser that watches."""
    bus.publish({"type": "status", **selectors.status()})


def operation_publish(operation_id: str) -> None:
    """Send one operation to every browser that watches."""
    payload = selectors.operation_payload(selectors.operation_get(operation_id))
    bus.publish({"type": "operation", "operation": payload})


# --- states -------------------------------------------------------------------------------------


def backend_transition(
    *,
    actor: Actor,
    name: str,
    to: State,
    expected: State | None = None,
    failure: str = "",
    failure_detail: str = "",
    **fields: Any,
) -> bool:
    """Move a backend to state ``to`` by compare-and-set, with the audit event in the same transaction.

    Args:
        actor: who caused it.
        name: the backend.
        to: the new state.
        expected: the only state to move from; None for any state the table allows.
        failure: why, for everybody, where ``to`` is ``failed`` or ``degraded``.
        failure_detail: the engine's own line, for its operators.
        fields: other columns that change with the state: ``instance_id``, ``endpoint``, ``model``…

    Returns:
        Whether this call moved it; False when it was in another state by then.
    """
    allowed = {expected} if expected is not None else lifecycle.sources_of(to)
    sources = [state.value for state in allowed if lifecycle.may_move(state, to)]
    with transaction.atomic():
        old = Backend.objects.select_for_update().filter(name=name).first()
        if old is None or old.state not in sources:
            return False
        if "instance_id" in fields and old.instance_id and not fields["instance_id"]:
            fields["last_instance_id"] = old.instance_id
        moved = Backend.objects.filter(name=name, state=old.state).update(
            state=to.value,
            state_since=selectors.now(),
            failure=failure,
            failure_detail=failure_detail,
            **fields,
        )
        if not moved:
            return False
        bad = to in {State.FAILED, State.DEGRADED}
        event_record(
            actor=actor,
            event=f"backend.{to.value}",
            category=Category.BACKEND,
            level=Level.ERROR if bad else Level.INFO,
            outcome=Outcome.FAILURE if bad else Outcome.SUCCESS,
            target_type="backend",
            target_id=name,
            message=f"{failure} {failure_detail}".strip(),
            before={"state": old.state},
            after={"state": to.value, "model": fields.get("model", old.model)},
        )
        transaction.on_commit(status_publish)
    return True


def backend_update(*, name: str, **fields: Any) -> None:
    """Change facts about a backend that are not its state: the start it is on, where it answers."""
    Backend.objects.filter(name=name).update(**fields)


def backend_undrain(*, actor: Actor, name: str) -> None:
    """Take a backend whose stop was cancelled while it drained back into service."""
    backend_transition(actor=actor, name=name, to=State.READY, expected=State.DRAINING)


def backend_failed_to_stop(*, actor: Actor, name: str, failure: str) -> None:
    """Say that processes of a backend are still there after the bounded wait."""
    backend_transition(
        actor=actor, name=name, to=State.FAILED, expected=State.STOPPING, failure=failure
    )


# --- operations: asking -------------------------------------------------------------------------


def backend_start(
    *,
    actor: Actor,
    name: str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    foreground: bool = False,
) -> Operation:
    """Ask for backend ``name`` to be started. Returns at once with the operation.

    Args:
        actor: who asks; needs ``backends:operate``.
        name: the backend.
        model: what to serve; None for the configured one.
        options: changes to the configured options, kept if the start succeeds.
        foreground: the caller runs the operation itself, so no worker is needed.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, InvalidOptions, OperationConflict,
        WorkerUnavailable.
    """
    changes = _changes(model, options)
    return _operation_ask(
        actor=actor, name=name, kind=OperationKind.START, changes=changes, foreground=foreground
    )


def backend_stop(*, actor: Actor, name: str, foreground: bool = False) -> Operation:
    """Ask for backend ``name`` to be stopped; a start under way is cancelled first."""
    return _operation_ask(
        actor=actor, name=name, kind=OperationKind.STOP, changes={}, foreground=foreground
    )


def backend_restart(
    *,
    actor: Actor,
    name: str,
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    foreground: bool = False,
) -> Operation:
    """Ask for backend ``name`` to be stopped and started again, with ``model`` and ``options`` changed."""
    changes = _changes(model, options)
    return _operation_ask(
        actor=actor, name=name, kind=OperationKind.RESTART, changes=changes, foreground=foreground
    )


def backend_switch(
    *, actor: Actor, name: str, model: str | None = None, foreground: bool = False
) -> Operation:
    """Ask for the GPU to be moved to backend ``name``: what runs now is stopped, ``name`` started.

    Where that fails after the old one was stopped, the old one is started again. With nothing running
    it is a start; a backend that already runs as asked is left as it is.

    Raises:
        As ``backend_start``; NotAllowed also for want of permission on the backend that would be stopped.
    """
    return _operation_ask(
        actor=actor,
        name=name,
        kind=OperationKind.SWITCH,
        changes=_changes(model, None),
        foreground=foreground,
    )


def _changes(model: str | None, options: Mapping[str, Any] | None) -> dict[str, Any]:
    changes = dict(options or {})
    if model is not None:
        changes["model"] = model
    return changes


def operate_check(*, actor: Actor, name: str) -> None:
    """Check that ``actor`` may operate backend ``name``, before anything else about a request is said.

    Raises:
        NotAuthenticated, NotAllowed, UnknownBackend.
    """
    _backend_for(actor, name, "request")


def _backend_for(actor: Actor, name: str, what: str) -> Backend:
    """Return the backend after the permission check; who may not operate does not learn what exists."""
    found = Backend.objects.filter(name=name).first()
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="backend",
        target_id=name[:80],
        backend_owner_id=found.owner_id if found else None,
    )
    try:
        return found or selectors.backend_get(name)
    except UnknownBackend as exc:
        _refused(actor, name, what, exc.message)
        raise


def _refused(actor: Actor, name: str, what: str, why: str) -> None:
    event_record(
        actor=actor,
        event=f"operation.{what}_refused",
        category=Category.OPERATION,
        level=Level.WARNING,
        outcome=Outcome.FAILURE,
        target_type="backend",
        target_id=name[:80],
        message=why,
    )


def _operation_ask(
    *, actor: Actor, name: str, kind: OperationKind, changes: dict[str, Any], foreground: bool
) -> Operation:
    backend = _backend_for(actor, name, kind)
    try:
        changes = selectors.backend_engine(backend).Options.own_names(changes)
        options = selectors.backend_options(backend, changes)
        _refuse_secrets(options, changes)
        if not foreground and not selectors.worker_alive():
            msg = (
                f"No worker of GPU machine {backend.node!r} is running, so nothing can be started or "
                "stopped. Start the site with: mh up"
            )
            raise WorkerUnavailable(msg, retry_after=5)
        leaving = _leaving_allowed(actor, backend, changes) if kind == OperationKind.SWITCH else ""
        with transaction.atomic():
            return _operation_create_or_join(actor, backend, kind, changes, leaving)
    except (InvalidOptions, OperationConflict, WorkerUnavailable) as exc:
        _refused(actor, name, kind, exc.message)
        raise


def _leaving_allowed(actor: Actor, backend: Backend, changes: dict[str, Any]) -> str:
    """Return the name of what a switch would stop, once it is known that ``actor`` may stop it."""
    leaving = selectors.backend_to_leave(backend, changes)
    if leaving is None:
        return ""
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="backend",
        target_id=leaving.name,
        backend_owner_id=leaving.owner_id,
    )
    return leaving.name


def _refuse_secrets(options: Any, changes: dict[str, Any]) -> None:
    """Secrets are set by configuration, which encrypts them; operations are kept as they were asked."""
    hidden = sorted(type(options).fields_with("secret") & changes.keys())
    if hidden:
        msg = f"{hidden[0]} is a secret: set it with PATCH /api/llm-backend/<name>/config first."
        raise InvalidOptions(msg, param=f"options.{hidden[0]}")


def _operation_create_or_join(
    actor: Actor, backend: Backend, kind: OperationKind, changes: dict[str, Any], leaving: str
) -> Operation:
    backend = Backend.objects.select_for_update().get(pk=backend.pk)
    waiting = list(
        Operation.objects.filter(backend=backend, state__in=OPEN_OPERATION_STATES).order_by(
            "created_at"
        )
    )
    same = [row for row in waiting if row.kind == kind and row.request == changes]
    if same and same[-1] is waiting[-1] and not same[-1].cancel_requested:
        event_record(
            actor=actor,
            event="operation.joined",
            category=Category.OPERATION,
            target_type="operation",
            target_id=str(same[-1].pk),
            message=f"{kind} {backend.name}",
        )
        return same[-1]
    if kind == OperationKind.STOP:
        for row in waiting:
            _cancel(actor, row)
    elif any(row.kind != OperationKind.STOP and not row.cancel_requested for row in waiting):
        msg = (
            f"{backend.name} is busy with another operation ({waiting[-1].kind}). Wait for it, or "
            f"cancel it: POST /api/llm-backend/operations/{waiting[-1].pk}/cancel"
        )
        raise OperationConflict(msg)
    return _operation_create(actor, backend, kind, changes, leaving)


def _operation_create(
    actor: Actor, backend: Backend, kind: OperationKind, changes: dict[str, Any], leaving: str
) -> Operation:
    row = Operation.objects.create(
        kind=kind,
        backend=backend,
        from_backend=leaving,
        node=backend.node,
        request=changes,
        eta_seconds=selectors.start_seconds_expected(backend, kind),
        requested_by=actor.user,
        requested_by_name=actor.name,
        request_id=actor.request_id,
        source_address=actor.source_address,
        created_at=selectors.now(),
    )
    event_record(
        actor=actor,
        event="operation.requested",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{kind} {backend.name}",
        after={"kind": kind, "backend": backend.name, "request": changes},
    )
    transaction.on_commit(lambda: _dispatch(row))
    return row


def _dispatch(row: Operation) -> None:
    """Wake the worker. It looks for itself once a second, so a lost message only costs that second."""
    operation_publish(str(row.pk))
    bus.worker_wake(row.node)


def operation_cancel(*, actor: Actor, operation_id: str) -> Operation:
    """Ask an operation to stop; one that has ended is returned as it is."""
    row = selectors.operation_get(operation_id)
    access.require(
        actor,
        Permission.BACKENDS_OPERATE,
        target_type="operation",
        target_id=str(row.pk),
        backend_owner_id=row.backend.owner_id,
    )
    with transaction.atomic():
        _cancel(actor, row)
    return selectors.operation_get(operation_id)


def _cancel(actor: Actor, row: Operation) -> None:
    """A waiting operation ends at once; a running one is told, and its runner undoes what it did."""
    asked = Operation.objects.filter(pk=row.pk, cancel_requested=False).filter(
        state__in=OPEN_OPERATION_STATES
    )
    if not asked.update(cancel_requested=True):
        return
    event_record(
        actor=actor,
        event="operation.cancel_requested",
        category=Category.OPERATION,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}",
    )
    ended = Operation.objects.filter(pk=row.pk, state=OperationState.QUEUED).update(
        state=OperationState.CANCELLED, finished_at=selectors.now()
    )
    if ended:
        _ended_event(actor, row, OperationState.CANCELLED, "")
    transaction.on_commit(lambda: operation_publish(str(row.pk)))


# --- operations: recording, by their runner -----------------------------------------------------


def operation_actor(row: Operation) -> Actor:
    """Return who asked for ``row``, for the audit events of its steps."""
    return Actor(
        user=row.requested_by,
        surface="system",
        request_id=row.request_id,
        source_address=row.source_address,
    )


def operation_claim(row: Operation, *, runner: str, stale_before: Any) -> bool:
    """Take ``row`` for ``runner``: one that waits, or one whose runner has not been heard of.

    At most one operation runs per GPU machine; the database sees to it.
    """
    from django.db import IntegrityError

    free = Q(state=OperationState.QUEUED) | Q(
        state=OperationState.RUNNING, heartbeat_at__lt=stale_before
    )
    now = selectors.now()
    try:
        with transaction.atomic():
            resumed = row.state == OperationState.RUNNING
            taken = Operation.objects.filter(free, pk=row.pk, runner=row.runner).update(
                state=OperationState.RUNNING,
                runner=runner,
                heartbeat_at=now,
                started_at=row.started_at or now,
            )
            if not taken:
                return False
            event_record(
                actor=operation_actor(row),
                event="operation.resumed" if resumed else "operation.started",
                category=Category.OPERATION,
                level=Level.WARNING if resumed else Level.INFO,
                target_type="operation",
                target_id=str(row.pk),
                message=f"{row.kind} {row.backend_id}",
            )
            transaction.on_commit(lambda: operation_publish(str(row.pk)))
    except IntegrityError:
        return False
    return True


def operation_beat(operation_id: str, *, runner: str) -> bool:
    """Say that ``runner`` still runs the operation; False when it has been taken over."""
    held = Operation.objects.filter(pk=operation_id, runner=runner, state=OperationState.RUNNING)
    return bool(held.update(heartbeat_at=selectors.now()))


def operation_leave(row: Operation, *, runner: str) -> None:
    """Record what a switch is to stop, as things are when it begins, and what that was started with.

    Raises:
        OperationLost: another runner has the operation.
        PreflightFailed: something else runs by now, which is not for whoever asked to stop.
    """
    leaving = selectors.backend_to_leave(row.backend, row.request)
    user = row.requested_by
    if leaving and user and leaving.name != row.from_backend:
        owner = leaving.owner_id
        if not is_allowed(user, Permission.BACKENDS_OPERATE, backend_owner_id=owner):
            msg = f"{leaving.name} is running by now, and you may not stop it. Ask its owner."
            raise PreflightFailed(msg, code="permission_denied")
    row.from_backend = leaving.name if leaving else ""
    row.from_options = _started_options(leaving) if leaving else None
    held = Operation.objects.filter(pk=row.pk, runner=runner)
    if not held.update(from_backend=row.from_backend, from_options=row.from_options):
        msg = f"operation {row.pk} was taken over by another runner"
        raise OperationLost(msg)


def _started_options(backend: Backend) -> dict[str, Any]:
    kept = backend.started_options
    return kept if kept is not None else selectors.options_given(backend)


def operation_failing(row: Operation, *, runner: str, error: dict[str, str]) -> None:
    """Record why an operation is being rolled back, for whoever must go on with that."""
    Operation.objects.filter(pk=row.pk, runner=runner).update(error=error)


def operation_report(
    operation_id: str, *, runner: str, progress: float, eta_seconds: float | None
) -> None:
    """Record how far the operation is."""
    Operation.objects.filter(pk=operation_id, runner=runner).update(
        progress=progress, eta_seconds=eta_seconds
    )
    operation_publish(operation_id)


def step_begin(row: Operation, name: str, *, runner: str) -> None:
    """Record, before it is taken, that a step begins (again, when the operation was resumed)."""
    with transaction.atomic():
        if not operation_beat(str(row.pk), runner=runner):
            msg = f"operation {row.pk} was taken over by another runner"
            raise OperationLost(msg)
        OperationStep.objects.update_or_create(
            operation=row,
            name=name,
            defaults={"state": StepState.RUNNING, "finished_at": None, "message": ""},
            create_defaults={"state": StepState.RUNNING, "started_at": selectors.now()},
        )
        _step_event(row, name, "step_started", "")
        transaction.on_commit(lambda: operation_publish(str(row.pk)))


def step_message(row: Operation, name: str, message: str) -> None:
    """Record what a step is doing."""
    OperationStep.objects.filter(operation=row, name=name).update(message=message)


def step_end(row: Operation, name: str, state: StepState, message: str | None = None) -> None:
    """Record how a step ended."""
    changes: dict[str, Any] = {"state": state, "finished_at": selectors.now()}
    if message is not None:
        changes["message"] = message
    with transaction.atomic():
        OperationStep.objects.filter(operation=row, name=name).update(**changes)
        _step_event(row, name, f"step_{state}", message or "")
        transaction.on_commit(lambda: operation_publish(str(row.pk)))


def _step_event(row: Operation, step: str, what: str, message: str) -> None:
    failed = what == f"step_{StepState.FAILED}"
    event_record(
        actor=operation_actor(row),
        event=f"operation.{what}",
        category=Category.OPERATION,
        level=Level.ERROR if failed else Level.INFO,
        outcome=Outcome.FAILURE if failed else Outcome.SUCCESS,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}: {step}. {message}".strip(),
    )


def operation_end(
    row: Operation,
    state: OperationState,
    *,
    runner: str,
    error: dict[str, str] | None = None,
) -> None:
    """Record that the operation ended, and how."""
    changes: dict[str, Any] = {"state": state, "finished_at": selectors.now(), "error": error}
    changes["eta_seconds"] = None
    if state == OperationState.SUCCEEDED:
        changes["progress"] = 1.0
    with transaction.atomic():
        held = Operation.objects.filter(pk=row.pk, runner=runner, state=OperationState.RUNNING)
        if not held.update(**changes):
            return
        message = f"{error['message']} {error['detail']}".strip() if error else ""
        _ended_event(operation_actor(row), row, state, message)
        transaction.on_commit(lambda: operation_publish(str(row.pk)))
        transaction.on_commit(status_publish)


def _ended_event(actor: Actor, row: Operation, state: OperationState, message: str) -> None:
    level, outcome = _FINISHED_LEVEL[state]
    event_record(
        actor=actor,
        event=f"operation.{state}",
        category=Category.OPERATION,
        level=level,
        outcome=outcome,
        target_type="operation",
        target_id=str(row.pk),
        message=f"{row.kind} {row.backend_id}. {message}".strip(),
    )


# --- configuration ------------------------------------------------------------------------------


def backend_configure(*, actor: Actor, name: str, options: Mapping[str, Any]) -> Backend:
    """Change options of backend ``name``; null puts one back to its default.

    Secret options are encrypted. What runs keeps running with what it was started with.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, InvalidOptions.
    """
    backend = _backend_for(actor, name, "configure")
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=backend.pk)
        before = selectors.backend_config(backend)
        _options_set(backend, dict(options))
        after = selectors.backend_config(backend)
        backend.save(update_fields=["options", "secrets"])
        event_record(
            actor=actor,
            event="backend.configured",
            category=Category.CONFIGURATION,
            target_type="backend",
            target_id=name,
            before=_changed(before, after),
            after=_changed(after, before),
        )
        transaction.on_commit(status_publish)
    return backend


def _options_set(backend: Backend, changes: dict[str, Any]) -> None:
    """Put ``changes`` into the row, validated as a whole."""
    known = selectors.backend_engine(backend).Options
    hidden = known.fields_with("secret")
    own = known.own_names
    stored = {**own(backend.options), **secrets.unseal(backend.secrets), **own(changes)}
    kept = {key: value for key, value in stored.items() if value is not None}
    row = Backend(name=backend.name, engine=backend.engine, options=kept)
    selectors.backend_options(row)
    backend.options = {key: value for key, value in kept.items() if key not in hidden}
    backend.secrets = secrets.seal(
        {key: str(value) for key, value in kept.items() if key in hidden}
    )


def _changed(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``one``'s options and secrets differs in ``other``."""
    return {
        part: {key: value for key, value in one[part].items() if other[part].get(key) != value}
        for part in ("options", "secrets")
    }


def options_keep(*, actor: Actor, name: str, changes: dict[str, Any]) -> None:
    """Keep the changes a start was asked for, after it succeeded; the backend becomes the active one."""
    if changes:
        backend_configure_as(actor=actor, name=name, options=changes)
    with transaction.atomic():
        board = Switchboard.objects.select_for_update().get_or_create(pk=1)[0]
        if board.active_backend_id == name:
            return
        before = board.active_backend_id
        Switchboard.objects.filter(pk=1).update(active_backend=name)
        event_record(
            actor=actor,
            event="switchboard.active_backend",
            category=Category.CONFIGURATION,
            target_type="backend",
            target_id=name,
            before={"active_backend": before},
            after={"active_backend": name},
        )
        transaction.on_commit(status_publish)


def backend_configure_as(*, actor: Actor, name: str, options: Mapping[str, Any]) -> None:
    """Change options as part of an operation whose permission was checked when it was asked for."""
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=name)
        before = dict(backend.options)
        _options_set(backend, dict(options))
        if backend.options == before:
            return
        backend.save(update_fields=["options", "secrets"])
        event_record(
            actor=actor,
            event="backend.configured",
            category=Category.CONFIGURATION,
            target_type="backend",
            target_id=name,
            before=before,
            after=backend.options,
        )


def config_import(*, actor: Actor, data: Any) -> list[str]:
    """Take over the content of ``etc/llm-backend.json``: all of it, or nothing.

    Returns:
        Sentences about what was left out: sections of engines that have no plugin here.

    Raises:
        NotAllowed, NotAuthenticated, InvalidOptions.
    """
    if actor.surface != "system":
        access.require(actor, Permission.BACKENDS_OPERATE, target_type="config")
    file = config_file.parse(data, frozenset(engines()))
    left_out = []
    with transaction.atomic():
        for name, section in file.backends.items():
            backend = Backend.objects.select_for_update().filter(name=name).first()
            if backend is None:
                left_out.append(f"{name}: no plugin for this engine is installed.")
                continue
            _options_set(backend, section.options)
            backend.auto_start = section.auto_start
            backend.save(update_fields=["options", "secrets", "auto_start"])
        chosen = Backend.objects.filter(name=file.active_backend).first()
        Switchboard.objects.update_or_create(
            pk=1,
            defaults={"active_backend": chosen, "startup_behavior": file.startup_behavior},
        )
        event_record(
            actor=actor,
            event="config.imported",
            category=Category.CONFIGURATION,
            target_type="config",
            target_id="llm-backend.json",
            message=" ".join(left_out),
            after=data,
        )
        transaction.on_commit(status_publish)
    return left_out
