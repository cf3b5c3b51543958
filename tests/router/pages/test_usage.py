"""The Usage page: sums of one's own requests, an owner's of everybody's, and quotas."""

import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from accounts.models import User
from router.usage_models import UsageRecord, UserQuota
from tests.router.pages.conftest import Reader

pytestmark = pytest.mark.django_db
PAGE = "/admin/router/usage/"


def used(user: User, *, days: int = 0, **more: Any) -> None:
    values = {
        "at": datetime.now(tz=UTC) - timedelta(days=days),
        "surface": "rest",
        "kind": "chat",
        "outcome": "done",
        "model": "m",
        "role": "persona",
        "provider": "active",
        "prompt_tokens": 100,
        "completion_tokens": 23,
        "total_tokens": 123,
        "ttft_ms": 80.0,
        "total_ms": 1500.0,
    }
    UsageRecord.objects.create(user=user, user_name=user.username, **{**values, **more})


def groups(html: str) -> list[str]:
    return re.findall(r'data-group="([^"]*)"', html)


def config(html: str) -> Any:
    return json.loads(re.search(r'id="mh-config" type="application/json">(.*?)<', html)[1])  # type: ignore[index]


def test_a_user_sees_their_own_requests_and_no_others(
    stan: Reader, boss: Reader, standard: User, owner: User
) -> None:
    used(standard, model="stans-model", request_id="stans-request")
    used(owner, model="olgas-model", request_id="olgas-request")
    for query in ("", "?user=olga", "?by=user", "?by=model", "?model=olgas-model"):
        html = stan.page(PAGE + query)
        assert "olgas-request" not in html
        assert not {"olga", "olgas-model"} & set(groups(html))
    assert "olgas-request" in boss.page(PAGE)
    assert groups(stan.page(f"{PAGE}?by=model")) == ["stans-model"]
    assert groups(boss.page(f"{PAGE}?by=user")) == ["olga", "stan"]
    assert groups(boss.page(f"{PAGE}?by=model&user=stan")) == ["stans-model"]


@pytest.mark.parametrize(("period", "there"), [("1", 1), ("7", 2), ("30", 3), ("", 4)])
def test_a_period_holds_its_days(stan: Reader, standard: User, period: str, there: int) -> None:
    for days in (0, 3, 20, 100):
        used(standard, days=days)
    html = stan.page(f"{PAGE}?days={period}")
    assert len(groups(html)) == there
    assert sum(row[3] for row in config(html)["days"]) == there


def test_the_picture_has_every_day_of_the_period(stan: Reader, standard: User) -> None:
    used(standard, days=2)
    days = config(stan.page(f"{PAGE}?days=7"))["days"]
    assert [row[1:] for row in days] == [[0, 0, 0]] * 4 + [[100, 23, 1]] + [[0, 0, 0]] * 2
    assert {after[0] - before[0] for before, after in itertools.pairwise(days)} == {86400}


def test_what_nobody_knows_in_the_query_is_as_if_it_was_not_asked(stan: Reader) -> None:
    html = stan.page(f"{PAGE}?days=9999&by=colour&model=%00")
    assert "Nobody has asked anything in this time." in html


def test_a_user_sees_what_is_left_of_their_quota_and_sets_none(
    stan: Reader, standard: User
) -> None:
    used(standard)
    UserQuota.objects.create(user=standard, tokens_per_day=1000)
    html = stan.page(PAGE)
    assert "123 of 1,000, 877 left" in html
    assert "Set a quota" not in html
    assert "Quota of" not in stan.page(f"{PAGE}?quota=stan")
    stan.send(f"{PAGE}quota/", {"user": "stan", "tokens_per_day": ""}, 403)
    assert UserQuota.objects.get().tokens_per_day == 1000


def test_an_owner_sets_and_takes_back_a_quota(boss: Reader, standard: User) -> None:
    form = {"user": "stan", "tokens_per_day": "5000", "requests_per_minute": "0"}
    assert boss.send(f"{PAGE}quota/", form) == f"{PAGE}#quotas"
    row = UserQuota.objects.get(user=standard)
    assert (row.tokens_per_day, row.requests_per_minute, row.tokens_per_month) == (5000, 0, None)
    html = boss.page(f"{PAGE}?quota=stan")
    assert 'value="5000"' in html
    boss.send(f"{PAGE}quota/", {"user": "stan", "do": "delete"}, 200)
    assert UserQuota.objects.exists()
    boss.send(f"{PAGE}quota/", {"user": "stan", "do": "delete", "confirmed": "1"})
    assert not UserQuota.objects.exists()


@pytest.mark.parametrize("value", ["-1", "many", "1.5", str(2**31)])
def test_a_wrong_quota_is_told_at_its_field(boss: Reader, standard: User, value: str) -> None:
    html = boss.send(f"{PAGE}quota/", {"user": "stan", "requests_per_minute": value}, 422)
    at = html.split('data-field="requests_per_minute"')[1].split("data-field=")[0]
    assert "A whole number from 0 to 2147483647." in at
    assert f'value="{value}"' in at
    assert not UserQuota.objects.exists()


def test_a_quota_of_nobody_is_404(boss: Reader) -> None:
    boss.page(f"{PAGE}?quota=nobody", 404)
    boss.send(f"{PAGE}quota/", {"user": "nobody", "tokens_per_day": "1"}, 404)
