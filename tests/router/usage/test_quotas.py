"""Who may use how much, with a real broker and without one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from accounts.actors import Actor
from accounts.errors import NotAllowed, NotFound, TooMany
from accounts.models import User
from audit.models import Event
from router.usage import quotas, services, storing
from tests.backends.faults.table import fault
from tests.router.usage.conftest import made, stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("clean_broker", "no_defaults")]
NOON = datetime(2026, 2, 14, 12, 30, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def fresh() -> None:
    quotas.forget()


@pytest.fixture
def at_noon(monkeypatch: Any) -> None:
    """The clock stands still, so that no window ends in a test."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return NOON

    monkeypatch.setattr(quotas, "datetime", Clock)


@pytest.fixture
def broker_away(monkeypatch: Any) -> None:
    nowhere = redis.Redis(unix_socket_path="/nowhere/at/all", retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(quotas, "_broker", lambda: nowhere)


def limit(user: User, **limits: int | None) -> None:
    services.quota_set(actor=Actor.system(), username=user.get_username(), **limits)


def refused(user: User) -> TooMany:
    with pytest.raises(TooMany) as caught:
        quotas.admit(user)
    return caught.value


def test_somebody_without_a_quota_costs_no_query(
    standard: User, django_assert_num_queries: Any
) -> None:
    quotas.admit(standard)
    with django_assert_num_queries(0):
        quotas.admit(standard)
        quotas.admit(None)


@fault(39)
def test_requests_above_the_minutes_are_refused_until_it_ends(
    standard: User, owner: User, at_noon: None
) -> None:
    limit(standard, requests_per_minute=2)
    quotas.admit(standard)
    quotas.admit(standard)
    error = refused(standard)
    assert (error.code, error.status, error.retry_after) == ("rate_limited", 429, 40)
    quotas.admit(owner)


@fault(39)
def test_a_new_minute_begins_anew(standard: User, at_noon: None, monkeypatch: Any) -> None:
    limit(standard, requests_per_minute=1)
    quotas.admit(standard)
    refused(standard)
    monkeypatch.setattr("tests.router.usage.test_quotas.NOON", NOON + timedelta(minutes=1))
    quotas.admit(standard)


@fault(39)
@pytest.mark.parametrize(
    ("name", "window", "left"),
    [("tokens_per_day", "day", 41_380), ("tokens_per_month", "month", 14 * 86_400 + 41_380)],
)
def test_tokens_of_requests_that_have_ended_use_a_quota_up(
    standard: User, at_noon: None, name: str, window: str, left: int
) -> None:
    limit(standard, **{name: 30})
    quotas.admit(standard)
    stored(standard, at=NOON, total_tokens=29)
    quotas.admit(standard)
    stored(standard, at=NOON, total_tokens=1)
    error = refused(standard)
    assert (error.code, error.retry_after) == ("quota_exceeded", left)
    assert window in error.message


def test_counts_are_taken_from_the_database_when_the_broker_has_forgotten(
    standard: User, at_noon: None, clean_broker: "redis.Redis"
) -> None:
    limit(standard, requests_per_minute=2, tokens_per_day=30)
    stored(standard, at=NOON, total_tokens=5)
    stored(standard, at=NOON - timedelta(days=1), total_tokens=500)
    quotas.admit(standard)
    clean_broker.flushall()
    stored(standard, at=NOON, total_tokens=5)
    assert refused(standard).code == "rate_limited"
    stored(standard, at=NOON, total_tokens=20)
    assert refused(standard).code == "quota_exceeded"


def test_a_broker_that_is_away_does_not_lift_a_quota(
    standard: User, at_noon: None, broker_away: None
) -> None:
    limit(standard, requests_per_minute=1, tokens_per_day=10)
    quotas.admit(standard)
    stored(standard, at=NOON, total_tokens=5)
    assert refused(standard).code == "rate_limited"
    stored(standard, at=NOON, total_tokens=5)
    assert refused(standard).code == "quota_exceeded"


def test_a_refused_request_uses_nothing_up(standard: User, at_noon: None) -> None:
    storing.write([made(user_id=standard.pk, at=NOON, outcome="quota_exceeded")])
    assert quotas.tokens_used(standard.pk, quotas.day(NOON)) == 0


def test_the_sites_defaults_hold_where_nothing_else_is_set(
    standard: User, owner: User, settings: Any
) -> None:
    settings.MH_QUOTA_TOKENS_PER_DAY = 10
    stored(standard)
    stored(owner)
    assert refused(standard).code == "quota_exceeded"
    limit(owner, tokens_per_day=0)
    quotas.admit(owner)
    limit(standard, tokens_per_day=None, requests_per_minute=5)
    assert refused(standard).code == "quota_exceeded"


def test_months_end_where_they_do() -> None:
    for when, end in ((NOON, (2026, 3, 1)), (datetime(2026, 12, 31, 23, tzinfo=UTC), (2027, 1, 1))):
        assert quotas.month(when).end == datetime(*end, tzinfo=UTC)


def test_setting_and_deleting_a_quota_is_for_owners_and_audited(
    standard: User, owner_actor: Actor
) -> None:
    someone = Actor(user=standard, surface="rest")
    with pytest.raises(NotAllowed):
        services.quota_set(actor=someone, username="stan", tokens_per_day=0)
    with pytest.raises(NotFound):
        services.quota_set(actor=owner_actor, username="nobody", tokens_per_day=1)
    services.quota_set(actor=owner_actor, username="stan", tokens_per_day=1)
    services.quota_delete(actor=owner_actor, username="stan")
    services.quota_delete(actor=owner_actor, username="stan")
    events = Event.objects.filter(event__startswith="quota.").order_by("id")
    assert [event.event for event in events] == ["quota.set", "quota.deleted"]
    assert events[0].after == {
        "requests_per_minute": None,
        "tokens_per_day": 1,
        "tokens_per_month": None,
    }
