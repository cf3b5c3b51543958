"""The one way to write an event. Nothing changes or deletes one."""

from collections.abc import Mapping
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from accounts.actors import Actor
from accounts.masking import mask, mask_text
from audit import chain
from audit.models import Category, Event, Level, Outcome

#: Names the lock under which PostgreSQL appends to the chain: "mhaudit" as a number.
_CHAIN_LOCK = 0x6D686175646974


def event_record(
    *,
    actor: Actor,
    event: str,
    category: Category | str,
    level: Level | str = Level.INFO,
    outcome: Outcome | str = Outcome.SUCCESS,
    target_type: str = "",
    target_id: str = "",
    message: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> Event:
    """Append an event, in the caller's transaction if there is one.

    Args:
        actor: who did it, or tried to.
        event: dotted name: ``operation.started``.
        category: what it is about.
        level: how much it matters.
        outcome: how it ended.
        target_type: kind of thing it was done to: ``backend``, ``token``.
        target_id: which one.
        message: for a person; secrets in it are masked.
        before: what the thing was; secrets are masked by key and by value.
        after: what it became; likewise.
    """
    row = Event(
        created_at=timezone.now(),
        event=event[:64],
        category=str(category),
        level=str(level),
        outcome=str(outcome),
        actor_id=actor.user.pk if actor.user is not None else None,
        actor_name=actor.name[:150],
        surface=actor.surface,
        source_address=actor.source_address[:64],
        request_id=actor.request_id[:128],
        target_type=target_type[:32],
        target_id=target_id[:128],
        message=chain.storable(mask_text(message)),
        before=None if before is None else chain.storable(mask(dict(before))),
        after=None if after is None else chain.storable(mask(dict(after))),
    )
    with transaction.atomic():
        _lock()
        last = Event.objects.order_by("-id").values_list("hash", flat=True).first()
        row.previous_hash = last or chain.GENESIS
        row.hash = chain.hash_of(row)
        row.save(force_insert=True)
    return row


def _lock() -> None:
    """Let nobody else append until this transaction ends. SQLite's is IMMEDIATE: it has the lock."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_LOCK])
