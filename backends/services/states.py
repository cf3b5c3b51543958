"""State moves of a backend, by compare-and-set, each with its audit event."""

from typing import Any

from django.db import transaction

from accounts.actors import Actor
from audit.models import Category, Level, Outcome
from audit.services import event_record
from backends import leases, lifecycle, selectors
from backends.lifecycle import State
from backends.models import (
    Backend,
)
from backends.services.rows import status_publish


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
        transaction.on_commit(lambda: serving_tell(name))
    return True


def serving_tell(name: str) -> None:
    """Tell those who watch, and the requests that come, what serves now."""
    row = Backend.objects.get(name=name)
    serves = lifecycle.is_serving(State(row.state))
    leases.serving_set(name, selectors.backend_token(row) if serves else "")
    status_publish()


def backend_undrain(*, actor: Actor, name: str) -> None:
    """Take a backend whose stop was cancelled while it drained back into service."""
    backend_transition(actor=actor, name=name, to=State.READY, expected=State.DRAINING)


def backend_failed_to_stop(*, actor: Actor, name: str, failure: str) -> None:
    """Say that processes of a backend are still there after the bounded wait."""
    backend_transition(
        actor=actor, name=name, to=State.FAILED, expected=State.STOPPING, failure=failure
    )
