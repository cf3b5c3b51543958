"""All reads of what requests cost, and of who may use how much."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from django.db.models import Count, F, Q, QuerySet, Sum, Window
from django.db.models.functions import RowNumber, TruncDate

from accounts.actors import Actor
from accounts.models import User
from accounts.permissions import Permission, is_allowed
from router.usage import quotas
from router.usage_models import UsageRecord, UserQuota

#: What requests can be summed by, and the column of each.
GROUPS: Final = {
    "day": "day",
    "user": "user_name",
    "model": "model",
    "role": "role",
    "provider": "provider",
}
_EXACT: Final = {
    "user": "user_name",
    "role": "role",
    "provider": "provider",
    "backend": "backend",
    "model": "model",
    "surface": "surface",
    "outcome": "outcome",
    "request_id": "request_id",
    "from": "at__gte",
    "to": "at__lt",
    "since": "at__gte",
    "until": "at__lt",
}
#: Groups of one answer, the most used ones.
GROUPS_MAX: Final = 1000


class RecordPayload(TypedDict):
    """What clients see of a request."""

    id: int
    at: str
    user: str
    token: str
    surface: str
    request_id: str
    role: str
    entry: str
    provider: str
    backend: str
    model: str
    kind: str
    outcome: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    total_tokens: int | None
    estimated: bool
    queued_ms: float | None
    ttft_ms: float | None
    total_ms: float
    attempts: int


class Times(TypedDict):
    """The middle of some times, and what 95 of 100 stay below, in milliseconds; None where there is none."""

    p50: float | None
    p95: float | None


class GroupPayload(TypedDict):
    """Sums over the requests of a group."""

    group: str
    requests: int
    errors: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    ttft_ms: Times
    total_ms: Times


class Used(TypedDict):
    """How much of a quota is used."""

    requests_this_minute: int
    tokens_this_day: int
    tokens_this_month: int


class QuotaPayload(TypedDict):
    """What one user may use: as set, null as the site's default; as it holds, 0 for no limit; and used."""

    user: str
    requests_per_minute: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    effective: dict[str, int]
    used: Used


def records(actor: Actor, filters: Mapping[str, Any] | None = None) -> QuerySet[UsageRecord]:
    """Return the requests chosen that ``actor`` may see: their own; an owner's view is everybody's.

    Filters are the names in ``_EXACT``; absent and None choose all, and an empty text what has none.
    """
    query = UsageRecord.objects.all()
    if not sees_all(actor):
        query = query.filter(user=actor.user) if actor.user is not None else query.none()
    for name, value in (filters or {}).items():
        if name in _EXACT and value is not None:
            query = query.filter(**{_EXACT[name]: value})
    return query


def sees_all(actor: Actor) -> bool:
    """Return whether ``actor`` sees everybody's requests."""
    return actor.is_system or is_allowed(actor.user, Permission.USERS_MANAGE, scopes=actor.scopes)


def record_payload(row: UsageRecord) -> RecordPayload:
    """Return what clients see of ``row``."""
    return RecordPayload(
        id=row.pk,
        at=row.at.isoformat(),
        user=row.user_name,
        token=row.token_id,
        surface=row.surface,
        request_id=row.request_id,
        role=row.role,
        entry=row.entry,
        provider=row.provider,
        backend=row.backend,
        model=row.model,
        kind=row.kind,
        outcome=row.outcome,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        reasoning_tokens=row.reasoning_tokens,
        total_tokens=row.total_tokens,
        estimated=row.estimated,
        queued_ms=row.queued_ms,
        ttft_ms=row.ttft_ms,
        total_ms=row.total_ms,
        attempts=row.attempts,
    )


def summary(query: QuerySet[UsageRecord], group_by: str) -> list[GroupPayload]:
    """Return sums over ``query`` by one of ``GROUPS``: days in order, else most requests first."""
    column = GROUPS[group_by]
    if column == "day":
        query = query.annotate(day=TruncDate("at", tzinfo=UTC))
    query = query.order_by()
    sums = (
        query.values(group=F(column))
        .annotate(
            requests=Count("id"),
            cancelled=Count("id", filter=Q(outcome="cancelled")),
            errors=Count("id", filter=~Q(outcome__in=("done", "cancelled"))),
            prompt=Sum("prompt_tokens"),
            completion=Sum("completion_tokens"),
            tokens=Sum("total_tokens"),
        )
        .order_by("group" if column == "day" else "-requests", "group")[:GROUPS_MAX]
    )
    first, whole = (_percentiles(query, column, name) for name in ("ttft_ms", "total_ms"))
    nothing = Times(p50=None, p95=None)
    return [
        GroupPayload(
            group=str(row["group"]),
            requests=row["requests"],
            errors=row["errors"],
            cancelled=row["cancelled"],
            prompt_tokens=row["prompt"] or 0,
            completion_tokens=row["completion"] or 0,
            total_tokens=row["tokens"] or 0,
            ttft_ms=first.get(row["group"], nothing),
            total_ms=whole.get(row["group"], nothing),
        )
        for row in sums
    ]


def _percentiles(query: QuerySet[UsageRecord], column: str, name: str) -> dict[Any, Times]:
    """Return the times of each group: nearest rank, counted by the database, in two rows a group."""
    group = F(column)
    ranked = query.filter(**{f"{name}__isnull": False}).annotate(
        rank=Window(RowNumber(), partition_by=group, order_by=F(name).asc()),
        size=Window(Count("id"), partition_by=group),
    )
    found: dict[Any, list[float]] = {}
    chosen = ranked.filter(_at_rank(0.5) | _at_rank(0.95))
    for key, value in chosen.order_by("rank").values_list(column, name):
        found.setdefault(key, []).append(value)
    return {key: Times(p50=values[0], p95=values[-1]) for key, values in found.items()}


def _at_rank(part: float) -> Q:
    """Choose the smallest rank that is at least ``part`` of the size, whatever floats make of it."""
    least = F("size") * part - 1e-6
    return Q(rank__gte=least) & Q(rank__lt=least + 1)


def quota_payload(user: User, quota: UserQuota | None) -> QuotaPayload:
    """Return what ``user`` may use, and has."""
    limits = quotas.limits_of(quota)
    now = datetime.now(tz=UTC)
    return QuotaPayload(
        user=user.get_username(),
        requests_per_minute=quota.requests_per_minute if quota else None,
        tokens_per_day=quota.tokens_per_day if quota else None,
        tokens_per_month=quota.tokens_per_month if quota else None,
        effective={
            "requests_per_minute": limits.requests_per_minute,
            "tokens_per_day": limits.tokens_per_day,
            "tokens_per_month": limits.tokens_per_month,
        },
        used=Used(
            requests_this_minute=quotas.requests_made(user.pk, quotas.minute(now)),
            tokens_this_day=quotas.tokens_used(user.pk, quotas.day(now)),
            tokens_this_month=quotas.tokens_used(user.pk, quotas.month(now)),
        ),
    )


def quota_of(user: User) -> UserQuota | None:
    """Return the quota set for ``user``, if one is."""
    return UserQuota.objects.filter(user=user).first()


def quotas_set() -> QuerySet[UserQuota]:
    """Return every quota that is set, by user."""
    return UserQuota.objects.select_related("user").order_by("user__username")


def quota_list() -> list[QuotaPayload]:
    """Return every quota that is set, as clients see it."""
    return [quota_payload(row.user, row) for row in quotas_set()]
