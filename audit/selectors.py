"""All reads of events."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

from asgiref.sync import sync_to_async
from django.db.models import Q, QuerySet

from accounts import database
from audit import chain
from audit.models import Event

#: Events read at once when all of them are.
_BATCH = 500


class EventPayload(TypedDict):
    """What clients see of an event."""

    id: int
    uid: str
    created_at: str
    event: str
    category: str
    level: str
    outcome: str
    actor: str
    surface: str
    source_address: str
    request_id: str
    target_type: str
    target_id: str
    message: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    previous_hash: str
    hash: str


class EventFilters(TypedDict, total=False):
    """What events can be chosen by. Absent and empty mean all."""

    event: str
    category: str
    level: str
    outcome: str
    actor: str
    surface: str
    target_type: str
    target: str
    request_id: str
    since: datetime
    until: datetime
    q: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What became of the chain of hashes."""

    ok: bool
    #: Events looked at, the bad one included.
    checked: int
    #: ``id`` of the first event that is not what was written, or whose predecessor is missing.
    first_bad: int | None
    reason: str
    #: Hash of the last good event. Kept elsewhere, it shows later that no event was cut off the end.
    head: str


_EXACT = {
    "category": "category",
    "level": "level",
    "outcome": "outcome",
    "actor": "actor_name",
    "surface": "surface",
    "target_type": "target_type",
    "target": "target_id",
    "request_id": "request_id",
    "since": "created_at__gte",
    "until": "created_at__lt",
}


def events(filters: EventFilters | None = None) -> QuerySet[Event]:
    """Return the events chosen, newest first.

    ``event`` matches itself and what is below it: ``operation`` finds ``operation.started``. ``q``
    is looked for in the message, event, actor and target.
    """
    given: dict[str, Any] = {k: v for k, v in (filters or {}).items() if v not in ("", None)}
    query = Event.objects.order_by("-id")
    name = given.pop("event", None)
    if name is not None:
        query = query.filter(Q(event=name) | Q(event__startswith=f"{name}."))
    text = given.pop("q", None)
    if text is not None:
        query = query.filter(
            Q(message__icontains=text)
            | Q(event__icontains=text)
            | Q(actor_name__icontains=text)
            | Q(target_id__icontains=text)
        )
    return query.filter(**{_EXACT[key]: value for key, value in given.items()})


def event_payload(event: Event) -> EventPayload:
    """Return what clients see of ``event``."""
    return EventPayload(
        id=event.pk,
        uid=str(event.uid),
        created_at=event.created_at.isoformat(),
        event=event.event,
        category=event.category,
        level=event.level,
        outcome=event.outcome,
        actor=event.actor_name,
        surface=event.surface,
        source_address=event.source_address,
        request_id=event.request_id,
        target_type=event.target_type,
        target_id=event.target_id,
        message=event.message,
        before=event.before,
        after=event.after,
        previous_hash=event.previous_hash,
        hash=event.hash,
    )


def events_oldest_first(filters: EventFilters | None = None) -> Iterator[Event]:
    """Yield the events chosen, oldest first, a batch at a time."""
    after = 0
    while batch := _batch(filters, after):
        yield from batch
        after = batch[-1].pk


async def aevents_oldest_first(filters: EventFilters | None = None) -> AsyncIterator[Event]:
    """Yield the events chosen, oldest first; no database connection is held between batches."""
    after = 0
    while batch := await sync_to_async(_batch_and_close)(filters, after):
        for event in batch:
            yield event
        after = batch[-1].pk


def chain_verify() -> ChainReport:
    """Compute every hash again and say where the first one is wrong, if one is."""
    head, checked = chain.GENESIS, 0
    for event in events_oldest_first():
        checked += 1
        reason = _fault(event, head)
        if reason:
            return ChainReport(
                ok=False, checked=checked, first_bad=event.pk, reason=reason, head=head
            )
        head = event.hash
    return ChainReport(ok=True, checked=checked, first_bad=None, reason="", head=head)


def _fault(event: Event, head: str) -> str:
    if event.previous_hash != head:
        return "An event before this one is missing, or was put in, or its order was changed."
    if event.hash != chain.hash_of(event):
        return "This event is not what was written."
    return ""


def _batch(filters: EventFilters | None, after: int) -> list[Event]:
    return list(events(filters).filter(pk__gt=after).order_by("id")[:_BATCH])


def _batch_and_close(filters: EventFilters | None, after: int) -> list[Event]:
    try:
        return _batch(filters, after)
    finally:
        database.release()
