"""Writes: quotas of users, and the end of old records."""

from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.actors import Actor
from accounts.models import User
from accounts.permissions import Permission
from accounts.selectors import user_get
from audit.access import require
from audit.models import Category
from audit.services import event_record
from router.usage import quotas, selectors
from router.usage_models import UsageRecord, UserQuota

#: Rows deleted in one transaction, so that nobody waits long for it.
_PRUNED_AT_ONCE: Final = 1000


def quota_set(
    *,
    actor: Actor,
    username: str,
    requests_per_minute: int | None = None,
    tokens_per_day: int | None = None,
    tokens_per_month: int | None = None,
) -> selectors.QuotaPayload:
    """Say how much a user may use, in place of what was said before. None: as the site says; 0: no limit.

    Raises:
        NotAuthenticated, NotAllowed: ``actor`` is no owner.
        NotFound: there is no such user.
    """
    user = _user(actor, username)
    values = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_day": tokens_per_day,
        "tokens_per_month": tokens_per_month,
    }
    with transaction.atomic():
        before = _values(selectors.quota_of(user))
        quota, _ = UserQuota.objects.update_or_create(user=user, defaults=values)
        _recorded(actor, "quota.set", username, before, values)
    quotas.forget()
    return selectors.quota_payload(user, quota)


def quota_delete(*, actor: Actor, username: str) -> selectors.QuotaPayload:
    """Let the site's defaults hold for a user again.

    Raises:
        NotAuthenticated, NotAllowed: ``actor`` is no owner.
        NotFound: there is no such user.
    """
    user = _user(actor, username)
    with transaction.atomic():
        before = _values(selectors.quota_of(user))
        UserQuota.objects.filter(user=user).delete()
        if before is not None:
            _recorded(actor, "quota.deleted", username, before, None)
    quotas.forget()
    return selectors.quota_payload(user, None)


def _user(actor: Actor, username: str) -> User:
    require(actor, Permission.USERS_MANAGE, target_type="quota", target_id=username[:128])
    return user_get(username)


def _values(quota: UserQuota | None) -> dict[str, Any] | None:
    if quota is None:
        return None
    return {
        "requests_per_minute": quota.requests_per_minute,
        "tokens_per_day": quota.tokens_per_day,
        "tokens_per_month": quota.tokens_per_month,
    }


def _recorded(
    actor: Actor,
    event: str,
    username: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    event_record(
        actor=actor,
        event=event,
        category=Category.USER,
        target_type="quota",
        target_id=username,
        before=before,
        after=after,
    )


def records_prune() -> int:
    """Delete records older than ``MH_USAGE_DAYS``; return how many. The sums for Prometheus stay."""
    if settings.MH_USAGE_DAYS <= 0:
        return 0
    limit = timezone.now() - timedelta(days=settings.MH_USAGE_DAYS)
    deleted = 0
    while True:
        old = UsageRecord.objects.filter(at__lt=limit).order_by("at")
        ids = list(old.values_list("pk", flat=True)[:_PRUNED_AT_ONCE])
        if not ids:
            return deleted
        deleted += UsageRecord.objects.filter(pk__in=ids).delete()[0]
