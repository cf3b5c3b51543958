"""The most memory seen while a backend ran, kept with what its start took."""

from typing import Final

from backends.models import Backend, StartRecord

#: A peak is written anew only when it grew by more than this share.
GROWTH: Final = 0.05


def peak_record(*, backend: str, gpu_bytes: int | None, host_bytes: int | None) -> bool:
    """Keep the most memory seen since ``backend`` was started with the model it serves now.

    Args:
        backend: its name.
        gpu_bytes: on all GPUs; None where it cannot be measured.
        host_bytes: resident, of its whole tree.

    Returns:
        Whether something was written: nothing is for growth of under 5 %, or without a record of the start.
    """
    model = Backend.objects.filter(name=backend).values_list("model", flat=True).first()
    record = StartRecord.objects.filter(backend_id=backend, model=model or "").first()
    if record is None:
        return False
    grown = {
        column: seen
        for column, seen in (("peak_gpu_bytes", gpu_bytes), ("peak_host_bytes", host_bytes))
        if _has_grown(getattr(record, column), seen)
    }
    return bool(grown and StartRecord.objects.filter(pk=record.pk).update(**grown))


def _has_grown(known: int | None, seen: int | None) -> bool:
    return bool(seen) and seen is not None and (known is None or seen > known * (1 + GROWTH))
