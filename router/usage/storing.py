"""Batches of records into the database, with their sums, in one transaction."""

import logging
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from django.db import DataError, IntegrityError, connection, models

from accounts import database
from router.usage import quotas
from router.usage.recording import Record
from router.usage_models import BUCKETS_MS, UsageRecord, UsageTotal

logger = logging.getLogger(__name__)

#: Outcomes of requests that a quota refused: counted, and not kept one by one, since whoever asks too
#: often would fill the disk.
REFUSED: Final = frozenset({"rate_limited", "quota_exceeded"})
#: Combinations of labels that Prometheus is given; models beyond them are one, called ``other``.
LABELS_MAX: Final = 1000
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LIMITS: Final[dict[str, int]] = {
    field.name: field.max_length
    for field in UsageRecord._meta.get_fields()  # noqa: SLF001 - Django's way to ask a model
    if isinstance(field, models.CharField) and field.max_length
}
_COLUMNS: Final = [
    field
    for field in UsageRecord._meta.local_concrete_fields  # noqa: SLF001
    if not field.primary_key
]
_NAMES: Final = [field.attname for field in _COLUMNS]
#: Where they are text, and how long that may be.
_TEXTS: Final = [(_NAMES.index(name), limit) for name, limit in _LIMITS.items()]
_AT, _UID = _NAMES.index("at"), _NAMES.index("uid")
_values: Final = attrgetter(*_NAMES)
_Labels = tuple[str, str, str, str, str]


def write(batch: Sequence[Record]) -> None:
    """Write ``batch``; what of it is there already is left alone. A record no database takes is logged.

    Raises:
        DatabaseError: the database is away; nothing was written.
    """
    try:
        _write(batch)
    except (DataError, IntegrityError, ValueError, OverflowError):
        # Some are there already, perhaps: the database took them and could not say so.
        for record in batch:
            _write_alone(record)
    finally:
        database.release()


def _write_alone(record: Record) -> None:
    try:
        if not UsageRecord.objects.filter(uid=record.uid).exists():
            _write([record])
    except (DataError, IntegrityError, ValueError, OverflowError) as exc:
        logger.error("The usage of request %s is lost: %s", record.request_id, exc)  # noqa: TRY400


def _write(batch: Sequence[Record]) -> None:
    kept = [record for record in batch if record.outcome not in REFUSED]
    with database.apart():
        if kept:
            _insert(kept)
        _add_to_totals(batch)
    quotas.count(kept)


def _insert(batch: Sequence[Record]) -> None:
    """Do what ``bulk_create`` does in a fifth of its time, in which the event loop waits for the interpreter."""
    quote = connection.ops.quote_name
    names = ", ".join(quote(str(field.column)) for field in _COLUMNS)
    places = ", ".join(["%s"] * len(_COLUMNS))
    table = quote(UsageRecord._meta.db_table)  # noqa: SLF001
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} ({names}) VALUES ({places})",  # noqa: S608 - names of a model
            [_row(record) for record in batch],
        )


def _row(record: Record) -> list[Any]:
    """Return the values of ``_COLUMNS``, as the database wants them."""
    row = list(_values(record))
    for place, limit in _TEXTS:
        if len(row[place]) > limit or "\0" in row[place]:
            row[place] = row[place].replace("\0", "")[:limit]
    row[_AT] = connection.ops.adapt_datetimefield_value(record.at)
    if not connection.features.has_native_uuid_field:
        row[_UID] = record.uid.hex
    return row


def _add_to_totals(batch: Sequence[Record]) -> None:
    groups: dict[_Labels, list[Record]] = defaultdict(list)
    for record in batch:
        names = record.provider, record.backend, record.model, record.surface, record.outcome
        groups[_labels(*names)].append(record)
    _lock()
    # In one order everywhere, so that two processes never wait for each other.
    for labels, records in sorted(groups.items()):
        total = _total(labels)
        _add(total, records)
        total.save()


def _lock() -> None:
    """Let one process at a time add; SQLite's transactions are IMMEDIATE and do."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [0x6D687573616765])


@lru_cache(maxsize=LABELS_MAX)
def _labels(provider: str, backend: str, model: str, surface: str, outcome: str) -> _Labels:
    names = (provider, backend, model, surface, outcome if _CODE.fullmatch(outcome) else "error")
    limits = (_LIMITS[name] for name in ("provider", "backend", "model", "surface", "outcome"))
    cut = [name.replace("\0", "")[:limit] for name, limit in zip(names, limits, strict=True)]
    return (cut[0], cut[1], cut[2], cut[3], cut[4])


def _total(labels: _Labels) -> UsageTotal:
    provider, backend, model, surface, outcome = labels
    same = UsageTotal.objects.filter(
        provider=provider, backend=backend, surface=surface, outcome=outcome
    )
    found = same.filter(model=model).first()
    if found is None and UsageTotal.objects.count() >= LABELS_MAX:
        model = "other"
        found = same.filter(model=model).first()
    return found or UsageTotal(
        provider=provider, backend=backend, model=model, surface=surface, outcome=outcome
    )


def _add(total: UsageTotal, records: Sequence[Record]) -> None:
    total.requests += len(records)
    total.prompt_tokens += sum(record.prompt_tokens or 0 for record in records)
    total.completion_tokens += sum(record.completion_tokens or 0 for record in records)
    for name in ("total", "ttft", "queued"):
        field, buckets = f"{name}_ms", getattr(total, f"{name}_buckets")
        times = [time for time in map(attrgetter(field), records) if time is not None]
        setattr(total, field, getattr(total, field) + sum(times))
        for time in times:
            buckets[bisect_left(BUCKETS_MS, time)] += 1
