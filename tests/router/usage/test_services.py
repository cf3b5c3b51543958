"""Old records go."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from router.usage import services, storing
from router.usage_models import UsageRecord, UsageTotal
from tests.router.usage.conftest import made

pytestmark = pytest.mark.django_db


def test_records_older_than_the_setting_are_deleted_and_the_sums_stay(
    settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(services, "_PRUNED_AT_ONCE", 2)
    now = datetime.now(tz=UTC)
    storing.write([made(at=now - timedelta(days=days)) for days in (0, 9, 11, 12, 13)])
    settings.MH_USAGE_DAYS = 0
    assert services.records_prune() == 0
    settings.MH_USAGE_DAYS = 10
    assert services.records_prune() == 3
    assert UsageRecord.objects.count() == 2
    assert UsageTotal.objects.get().requests == 5
