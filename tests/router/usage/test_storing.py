"""Batches in the database."""

from typing import Any

import pytest
import redis
from django.db import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from router.usage import quotas, storing
from router.usage_models import UsageRecord, UsageTotal
from tests.router.usage.conftest import made

pytestmark = pytest.mark.django_db


def test_a_batch_that_is_written_again_counts_once() -> None:
    batch = [made(), made()]
    storing.write(batch)
    storing.write([*batch, made()])
    assert UsageRecord.objects.count() == 3
    assert UsageTotal.objects.get().requests == 3


def test_sums_have_tokens_times_and_buckets() -> None:
    storing.write([made(total_ms=20.0), made(total_ms=700_000.0, ttft_ms=None), made(total_ms=10)])
    total = UsageTotal.objects.get()
    assert (total.prompt_tokens, total.completion_tokens) == (30, 15)
    assert total.total_ms == pytest.approx(700_030)
    assert (total.total_buckets[0], total.total_buckets[1], total.total_buckets[-1]) == (1, 1, 1)
    assert sum(total.ttft_buckets) == 2


def test_a_record_no_database_takes_does_not_keep_the_others_away() -> None:
    storing.write([made(), made(total_tokens=2**80), made()])
    assert UsageRecord.objects.count() == 2


def test_long_texts_are_cut_and_null_bytes_go() -> None:
    storing.write([made(model="x\0" + "y" * 2000, outcome="Not A Code" * 20)])
    row = UsageRecord.objects.get()
    assert row.model.startswith("xy")
    assert len(row.model) == 512
    assert UsageTotal.objects.get().outcome == "error"


def test_requests_a_quota_refused_are_counted_and_not_kept() -> None:
    storing.write([made(outcome="rate_limited"), made()])
    assert UsageRecord.objects.count() == 1
    assert UsageTotal.objects.get(outcome="rate_limited").requests == 1


def test_labels_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(storing, "LABELS_MAX", 3)
    storing.write([made(model=f"model-{number}") for number in range(6)])
    found = dict(UsageTotal.objects.values_list("model", "requests"))
    assert found == {"model-0": 1, "model-1": 1, "model-2": 1, "other": 3}
    assert UsageRecord.objects.filter(model="model-5").exists()


def test_a_database_that_fails_half_way_has_nothing(monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(storing, "_add_to_totals", fail)
    with pytest.raises(OperationalError):
        storing.write([made()])
    assert UsageRecord.objects.count() == 0


def test_a_broker_that_is_away_keeps_no_record_from_the_database(monkeypatch: Any) -> None:
    nowhere = redis.Redis(unix_socket_path="/nowhere/at/all", retry=Retry(NoBackoff(), 0))
    monkeypatch.setattr(quotas, "_broker", lambda: nowhere)
    storing.write([made(user_id=1)])
    assert UsageRecord.objects.count() == 1


def test_a_record_of_a_user_who_is_gone_is_kept_under_their_name() -> None:
    storing.write([made(user_id=987_654, user_name="ghost")])
    assert UsageRecord.objects.get().user_name == "ghost"
