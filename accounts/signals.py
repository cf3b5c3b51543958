"""How accounts tells what happened here, without knowing who keeps the record.

``audit`` listens and writes an event in the sender's transaction; an error in a listener undoes the
change, so that nothing happens unrecorded.
"""

from typing import Any, Literal

from django.dispatch import Signal

from accounts.actors import Actor

#: Sent with the keyword arguments of ``announce``.
happened = Signal()


def announce(
    *,
    actor: Actor,
    event: str,
    category: Literal["authentication", "permission", "token", "user"],
    outcome: Literal["success", "failure", "refused"] = "success",
    target_type: str = "",
    target_id: str = "",
    message: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Tell the listeners, in the caller's transaction."""
    happened.send(
        sender=Actor,
        actor=actor,
        event=event,
        category=category,
        outcome=outcome,
        target_type=target_type,
        target_id=target_id,
        message=message,
        before=before,
        after=after,
    )
