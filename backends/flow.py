"""Counts of what goes through the router to each backend, and the samples of the last hour: in the broker.

Web processes add to the counts once a second, the observer reads them. Neither is missed when the broker loses
them: counts begin anew, and minutes are in the database.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any, Final

import redis

from backends import bus, leases
from backends.sampling.looks import Flow
from backends.sampling.resolution import FINE
from backends.sampling.stats import AnyReading, Reading, to_json

#: What is counted; fields of ``Flow``.
COUNTS: Final = ("tokens", "prompt_tokens", "firsts", "first_seconds")
#: Buckets that are kept.
_KEPT: Final = FINE.reaches // FINE.step


def _counts(backend: str) -> str:
    return f"mh:flow:{backend}"


def _samples(node: str) -> str:
    return f"mh:samples:{node}"


def flow_add(added: Mapping[str, Mapping[str, float]]) -> None:
    """Add to the counts of backends; what a broker that is away does not hear is left out of the charts.

    Args:
        added: by backend, and by name in ``COUNTS``.
    """
    with contextlib.suppress(redis.RedisError), bus.redis_client().pipeline() as pipe:
        for backend, counts in added.items():
            for name, value in counts.items():
                if value:
                    pipe.hincrbyfloat(_counts(backend), name, value)
        pipe.execute()


def flow_read(backend: str) -> Flow:
    """Return what went to ``backend``, and what is on its way; nothing when the broker is away."""
    try:
        counts = bus.redis_client().hgetall(_counts(backend))
    except redis.RedisError:
        counts = {}
    known = {key: float(value) for key, value in dict(counts).items() if key in COUNTS}
    return Flow(**known, in_flight=leases.in_flight(backend))


def samples_push(node: str, at: int, reading: Reading) -> None:
    """Keep a bucket of ``FINE`` for as long as those are kept."""
    text = json.dumps({"at": at, "series": to_json(reading)}, separators=(",", ":"))
    with contextlib.suppress(redis.RedisError), bus.redis_client().pipeline() as pipe:
        pipe.rpush(_samples(node), text)
        pipe.ltrim(_samples(node), -_KEPT, -1)
        pipe.expire(_samples(node), FINE.reaches)
        pipe.execute()


def samples_read(node: str, seconds: float) -> list[tuple[int, AnyReading]]:
    """Return the buckets of about the last ``seconds`` that ``samples_push`` kept, as they came.

    A clock that was set back, or an observer that was started anew, makes two of the same time.
    """
    most = min(_KEPT, int(seconds // FINE.step) + 2)
    try:
        texts: Any = bus.redis_client().lrange(_samples(node), -most, -1)
    except redis.RedisError:
        return []
    said = [json.loads(text) for text in texts]
    return [(one["at"], one["series"]) for one in said]
