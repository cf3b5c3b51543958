"""Backends whose engine no operation of ours started: taken up, refreshed, let go. Each with its audit event."""

from typing import Any

from django.db import transaction

from accounts.actors import Actor
from audit.models import Category, Level
from audit.services import event_record
from backends import foreign, lifecycle, selectors
from backends.errors import EngineAttached
from backends.lifecycle import State
from backends.models import Backend, OperationKind
from backends.services.states import serving_tell


def backend_attach(
    *, name: str, endpoint: str, model: str, version: str, message: str = ""
) -> bool:
    """Take up an engine that somebody else started: the backend serves, and is not ours to end.

    Returns:
        Whether this call did it; False when the backend was in no state for it by then.
    """
    facts = {"endpoint": endpoint, "model": model, "version": version}
    return _found(
        "backend.attached",
        name,
        message,
        attached=True,
        instance_id="",
        started_options=None,
        **facts,
    )


def backend_adopt(*, name: str, endpoint: str, model: str, version: str, instance_id: str) -> bool:
    """Take up a start of our own that the database had lost: the backend serves, and is ours to end."""
    facts = {"endpoint": endpoint, "model": model, "version": version}
    return _found(
        "backend.adopted", name, instance_id, attached=False, instance_id=instance_id, **facts
    )


def _found(event: str, name: str, message: str, **fields: Any) -> bool:
    return _move(
        event,
        name,
        set(lifecycle.FINDABLE),
        State.READY,
        message,
        failure="",
        failure_detail="",
        **fields,
    )


def backend_detach(*, name: str, message: str = "") -> bool:
    """Let go of an engine that somebody else ran and that is gone: stopped, and nobody's failure."""
    return _move(
        "backend.detached",
        name,
        set(lifecycle.LOSABLE),
        State.STOPPED,
        message,
        attached_only=True,
        attached=False,
        instance_id="",
        endpoint="",
        model="",
        version="",
        failure="",
        failure_detail="",
    )


def _move(
    event: str,
    name: str,
    sources: set[State],
    to: State,
    message: str,
    *,
    attached_only: bool = False,
    **fields: Any,
) -> bool:
    """Move by compare-and-set, with the audit event in the same transaction."""
    with transaction.atomic():
        old = Backend.objects.select_for_update().filter(name=name).first()
        if old is None or old.state not in sources or (attached_only and not old.attached):
            return False
        moved = Backend.objects.filter(name=name, state=old.state, attached=old.attached).update(
            state=to.value, state_since=selectors.now(), **fields
        )
        if not moved:
            return False
        event_record(
            actor=Actor.system(),
            event=event,
            category=Category.BACKEND,
            level=Level.INFO,
            target_type="backend",
            target_id=name,
            message=message,
            before={"state": old.state, "model": old.model},
            after={"state": to.value, "model": fields["model"], "endpoint": fields["endpoint"]},
        )
        transaction.on_commit(lambda: serving_tell(name))
    return True


def refuse_if_others(backend: Backend, kind: str, *, foreground: bool) -> None:
    """Refuse at once to stop or restart an engine of somebody else's that only they can stop.

    A web request goes by what the observer saw last and does not ask the engine; where nothing is known,
    the operation finds out.

    Raises:
        EngineAttached: says who started it, as far as that is known.
    """
    if not backend.attached or kind not in {OperationKind.STOP, OperationKind.RESTART}:
        return
    engine = selectors.backend_engine(backend)
    if kind == OperationKind.STOP and foreign.can_unload(engine):
        return
    facts = selectors.server_facts(backend.name)
    if not facts and foreground and (server := foreign.find(backend)):
        facts = server.facts()
    if facts and not facts["unit"]:
        who = foreign.said_by(engine.title, backend.endpoint, facts)
        raise EngineAttached(f"{who}; {kind} it there.")


def backend_refresh(*, name: str, **fields: str) -> None:
    """Keep what an attached engine serves by now: whoever runs it may have changed that."""
    kept = Backend.objects.filter(name=name, attached=True)
    if kept.exclude(**fields).update(**fields):
        serving_tell(name)
