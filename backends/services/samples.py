"""Samples of GPUs and engines, written by the observer: once a minute, in one transaction, without audit."""

from collections.abc import Iterable

from django.db import transaction

from backends.models import SampleBucket
from backends.sampling.buckets import bucket_of
from backends.sampling.resolution import MINUTES, QUARTERS
from backends.sampling.stats import Reading, merged, to_json


def samples_record(*, node: str, minutes: Iterable[tuple[int, Reading]], now: float) -> None:
    """Add what was seen in ``minutes`` to theirs and to their quarters of an hour; delete what is old.

    Call it from one process for a node, and once for what was seen: a minute may come in parts, which are
    added up.

    Args:
        node: the GPU machine.
        minutes: begins of minutes, in seconds since 1970, and what was seen in them.
        now: seconds since 1970.

    Raises:
        DatabaseError: nothing was written.
    """
    with transaction.atomic():
        for at, reading in minutes:
            for resolution in (MINUTES, QUARTERS):
                _add(node, resolution.step, bucket_of(at, resolution.step), reading)
        for resolution in (MINUTES, QUARTERS):
            SampleBucket.objects.filter(
                step=resolution.step, at__lt=now - resolution.reaches
            ).delete()


def _add(node: str, step: int, at: int, reading: Reading) -> None:
    row = SampleBucket.objects.filter(node=node, step=step, at=at).first()
    row = row or SampleBucket(node=node, step=step, at=at)
    row.series = to_json(merged([row.series, reading]))
    row.save()
