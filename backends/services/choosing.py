"""Which backend is the active one: by the auto-select rule, and what holds when the site comes up."""

from typing import Any

from django.db import transaction

from accounts.actors import Actor
from accounts.permissions import Permission
from audit import access
from audit.models import Category
from audit.services import event_record
from backends import choice, selectors
from backends.errors import EngineNotInstalled, InvalidOptions
from backends.models import (
    OPEN_OPERATION_STATES,
    Backend,
    Lane,
    Operation,
    OperationKind,
    OperationState,
    Switchboard,
)
from backends.services.asking import backend_for, backend_switch, refused
from backends.services.configuration import options_keep
from backends.services.recording import ended_event
from backends.services.repeating import key_keep, operation_repeated
from backends.services.rows import operation_publish, status_publish


def backend_auto(*, actor: Actor, foreground: bool = False) -> Operation:
    """Pick a backend by the auto-select rule and have it be the active one.

    The rule: vLLM if it runs, else Ollama if it runs, else vLLM if it is installed, else Ollama; other
    engines follow by name. One that runs only becomes the active one: nothing is started or stopped, and the operation
    that is returned has ended. Else it is a switch to it.

    Raises:
        EngineNotInstalled: there is none to pick; says what was looked for.
        As ``backend_switch``.
    """
    auto_check(actor=actor)
    candidates = selectors.candidates()
    name = choice.auto(candidates)
    if name is None:
        error = EngineNotInstalled(nothing_to_pick(), code="no_engine")
        refused(actor, choice.AUTO, choice.AUTO, error.message)
        raise error
    runs = any(found.running for found in candidates if found.name == name)
    if runs and (row := _activate(actor, backend_for(actor, name, choice.AUTO))):
        return row
    return backend_switch(actor=actor, name=name, foreground=foreground)


def auto_check(*, actor: Actor) -> None:
    """Check that ``actor`` may have a backend picked: whichever it will be."""
    access.require(actor, Permission.BACKENDS_OPERATE, target_type="backend", target_id=choice.AUTO)


def startup_check(*, actor: Actor) -> None:
    """Check that ``actor`` may see and say what happens when the site comes up."""
    access.require(actor, Permission.BACKENDS_OPERATE, target_type="config", target_id="startup")


def nothing_to_pick() -> str:
    """Return the sentence that says what was looked for, and what to do."""
    looked = " ".join(
        f"{selectors.backend_engine(row).title}: {selectors.why_not_installed(row)}"
        for row in selectors.backend_list()
    )
    return (
        f"No engine runs or is installed on this machine. {looked or 'There is no engine plugin.'}"
    )


def _activate(actor: Actor, backend: Backend) -> Operation | None:
    """Have a backend that runs be the active one; None while an operation is about to change it."""
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=backend.pk)
        if made := operation_repeated(actor):
            return made
        busy = Operation.objects.filter(
            backend=backend, lane=Lane.GPU, state__in=OPEN_OPERATION_STATES
        )
        if busy.exists() or not selectors.backend_is_running(backend):
            return None
        now = selectors.now()
        row = Operation.objects.create(
            kind=OperationKind.SWITCH,
            backend=backend,
            node=backend.node,
            state=OperationState.SUCCEEDED,
            progress=1.0,
            requested_by=actor.user,
            requested_by_name=actor.name,
            request_id=actor.request_id,
            source_address=actor.source_address,
            created_at=now,
            started_at=now,
            finished_at=now,
        )
        event_record(
            actor=actor,
            event="operation.requested",
            category=Category.OPERATION,
            target_type="operation",
            target_id=str(row.pk),
            message=f"{choice.AUTO} {backend.name}",
            after={"kind": row.kind, "backend": backend.name, "request": {}},
        )
        key_keep(actor, row)
        options_keep(actor=actor, name=backend.name, changes={})
        ended_event(actor, row, OperationState.SUCCEEDED, "It runs already.")
        transaction.on_commit(lambda: operation_publish(str(row.pk)))
    return row


def active_set(*, actor: Actor, name: str) -> None:
    """Make ``name`` the backend that answers who names none; nothing is started or stopped."""
    options_keep(actor=actor, name=name, changes={})


def startup_set(
    *,
    actor: Actor,
    behavior: str | None = None,
    auto_start: dict[str, bool] | None = None,
) -> None:
    """Say what is to happen when the site comes up.

    Args:
        actor: who asks; needs ``backends:operate``.
        behavior: ``auto``, ``fallback`` or the name of a backend; None leaves it.
        auto_start: whether a backend is started when it is chosen, by its name; others are left.

    Raises:
        InvalidOptions: a name nothing is called; NotAllowed, NotAuthenticated.
    """
    startup_check(actor=actor)
    wanted = auto_start or {}
    _check_names(behavior, wanted)
    with transaction.atomic():
        before = selectors.startup()
        if behavior is not None:
            Switchboard.objects.filter(pk=selectors.switchboard().pk).update(
                startup_behavior=behavior
            )
        for name, value in wanted.items():
            Backend.objects.filter(name=name).update(auto_start=value)
        after = selectors.startup()
        if after != before:
            _record_startup(actor, dict(before), dict(after))
            transaction.on_commit(status_publish)


def _check_names(behavior: str | None, auto_start: dict[str, bool]) -> None:
    names = [row.name for row in selectors.backend_list()]
    known = [choice.AUTO, *names, choice.FALLBACK]
    if behavior is not None and behavior not in known:
        msg = f"There is no start-up behaviour {behavior[:80]!r}. It may be: {', '.join(known)}."
        raise InvalidOptions(msg, param="behavior")
    for name in auto_start:
        if name not in names:
            msg = f"There is no backend called {name[:80]!r}. Backends here: {', '.join(names)}."
            raise InvalidOptions(msg, param=f"auto_start.{name[:80]}")


def _record_startup(actor: Actor, before: dict[str, Any], after: dict[str, Any]) -> None:
    event_record(
        actor=actor,
        event="switchboard.startup",
        category=Category.CONFIGURATION,
        target_type="config",
        target_id="startup",
        before=before,
        after=after,
    )
