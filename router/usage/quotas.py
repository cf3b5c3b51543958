"""How much a user may use, and how much they have used: asked before every request.

What each may use is read once a second for everybody, if anything was written since: a change is felt within
a second in every process and costs a request nothing. What somebody with a quota has used is counted in the broker: requests of this
minute, tokens of this day and this month (UTC). The database is the truth about it: a count that is not in
the broker is taken from there, tokens anew each ``FRESH`` seconds; and while the broker is away, always.
Tokens are counted when a request has ended, so the requests that are under way when a quota is used up are
answered.
"""

import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import redis
import redis.backoff
import redis.retry
from django.conf import settings
from django.db.models import QuerySet, Sum

from accounts import database
from accounts.errors import TooMany
from accounts.models import User
from router.usage.recording import Record
from router.usage_models import UsageRecord, UserQuota

#: Seconds after which quotas are read again, and after which tokens are summed again.
READ_EVERY: Final = 1.0
FRESH: Final = 60
#: KEYS: a count. ARGV: what to add, if it is there.
_ADD: Final = (
    "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('INCRBY', KEYS[1], ARGV[1]) end"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may use; 0 is as much as they like."""

    requests_per_minute: int = 0
    tokens_per_day: int = 0
    tokens_per_month: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """A minute, a day or a month of UTC."""

    name: str
    start: datetime
    end: datetime

    def left(self, now: datetime) -> int:
        """Return the seconds until it ends, at least one."""
        return max(1, math.ceil((self.end - now).total_seconds()))

    def key(self, user_id: int) -> str:
        """Return the name of a user's count in the broker."""
        return f"mh:quota:{user_id}:{self.name}:{self.start:%Y%m%d%H%M}"


def minute(now: datetime) -> Window:
    """Return the minute of ``now``."""
    start = now.replace(second=0, microsecond=0)
    return Window("minute", start, start + timedelta(minutes=1))


def day(now: datetime) -> Window:
    """Return the day of ``now``."""
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return Window("day", start, start + timedelta(days=1))


def month(now: datetime) -> Window:
    """Return the month of ``now``."""
    start = day(now).start.replace(day=1)
    return Window("month", start, (start + timedelta(days=32)).replace(day=1))


@functools.cache
def _broker() -> "redis.Redis":
    """Return connections that are not tried again: a request waits for the answer, and there is the database."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        decode_responses=True,
    )


class _Quotas:
    """Everybody's quota: as of a second ago at most, or as of the last commit."""

    def __init__(self) -> None:
        self._read_at = -math.inf
        self._version: int | None = None
        self._by_user: dict[int, Limits] = {}

    def of(self, user_id: int) -> Limits:
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY:
            version = database.version()
            if version is None or version != self._version:
                self._by_user = {row.pk: limits_of(row) for row in UserQuota.objects.all()}
            self._read_at, self._version = now, version
        return self._by_user.get(user_id) or defaults()

    def forget(self) -> None:
        self._read_at, self._version = -math.inf, None


_quotas: Final = _Quotas()


def forget() -> None:
    """Read the quotas anew for the next request of this process."""
    _quotas.forget()


def defaults() -> Limits:
    """Return what a user may use of whom nothing else was said."""
    return Limits(
        requests_per_minute=settings.MH_QUOTA_REQUESTS_PER_MINUTE,
        tokens_per_day=settings.MH_QUOTA_TOKENS_PER_DAY,
        tokens_per_month=settings.MH_QUOTA_TOKENS_PER_MONTH,
    )


def limits_of(quota: UserQuota | None) -> Limits:
    """Return what a user with ``quota`` may use."""
    site = defaults()
    if quota is None:
        return site
    own = (quota.requests_per_minute, quota.tokens_per_day, quota.tokens_per_month)
    pairs = zip(
        own, (site.requests_per_minute, site.tokens_per_day, site.tokens_per_month), strict=True
    )
    return Limits(*(default if value is None else value for value, default in pairs))


def admit(user: User | None) -> None:
    """Count one more request of ``user``, and return if they may make it. Synchronous.

    Nobody, the site itself, has no quota. Costs a query a second for everybody together, and a visit
    to the broker for a user who has a quota.

    Raises:
        TooMany: ``rate_limited``, too many requests in this minute; ``quota_exceeded``, too many tokens
            in this day or month. ``retry_after`` says when the window ends.
    """
    if user is None:
        return
    limits = _quotas.of(user.pk)
    if limits == Limits():
        return
    # From here on it is counted, and may be so once only.
    database.reading()
    now = datetime.now(tz=UTC)
    for window, most in ((day(now), limits.tokens_per_day), (month(now), limits.tokens_per_month)):
        if most and tokens_used(user.pk, window) >= most:
            msg = f"Your quota of {most} tokens for this {window.name} is used up. It begins anew at {window.end:%Y-%m-%d %H:%M} UTC."
            raise TooMany(msg, code="quota_exceeded", retry_after=window.left(now))
    most = limits.requests_per_minute
    window = minute(now)
    if most and _requests_more(user.pk, window) > most:
        msg = f"You may make {most} requests a minute. Try again in {window.left(now)} s."
        raise TooMany(msg, code="rate_limited", retry_after=window.left(now))


def _requests_more(user_id: int, window: Window) -> int:
    """Count one more request in ``window``, and return how many there are."""
    key = window.key(user_id)
    try:
        client = _broker()
        made = int(client.incr(key))
        if made == 1:
            client.expire(key, 120)
            before = _requests_recorded(user_id, window)
            made = int(client.incrby(key, before)) if before else made
    except redis.RedisError:
        return _requests_recorded(user_id, window) + 1
    return made


def requests_made(user_id: int, window: Window) -> int:
    """Return how many requests a user has made in ``window``."""
    try:
        found = _broker().get(window.key(user_id))
    except redis.RedisError:
        found = None
    return int(str(found)) if found else _requests_recorded(user_id, window)


def tokens_used(user_id: int, window: Window) -> int:
    """Return how many tokens a user's requests of ``window`` have cost."""
    key = window.key(user_id)
    try:
        client = _broker()
        found = client.get(key)
        if found is None:
            used = _tokens_recorded(user_id, window)
            client.set(key, used, ex=FRESH, nx=True)
            return used
    except redis.RedisError:
        return _tokens_recorded(user_id, window)
    return int(str(found))


def _recorded(user_id: int, window: Window) -> QuerySet[UsageRecord]:
    return UsageRecord.objects.filter(user_id=user_id, at__gte=window.start, at__lt=window.end)


def _requests_recorded(user_id: int, window: Window) -> int:
    return _recorded(user_id, window).count()


def _tokens_recorded(user_id: int, window: Window) -> int:
    return _recorded(user_id, window).aggregate(used=Sum("total_tokens"))["used"] or 0


def count(records: Iterable[Record]) -> None:
    """Add the tokens of ``records``, which are in the database, to the counts that are in the broker.

    A broker that is away counts them from the database later.
    """
    days: Counter[tuple[int, date]] = Counter()
    for record in records:
        if record.user_id is not None and record.total_tokens:
            days[record.user_id, record.at.date()] += record.total_tokens
    used: Counter[str] = Counter()
    for (user_id, of), tokens in days.items():
        for window in (day, month):
            used[window(datetime(of.year, of.month, of.day, tzinfo=UTC)).key(user_id)] += tokens
    if not used:
        return
    with contextlib.suppress(redis.RedisError), _broker().pipeline(False) as pipe:
        for key, tokens in used.items():
            pipe.eval(_ADD, 1, key, str(tokens))
        pipe.execute()
