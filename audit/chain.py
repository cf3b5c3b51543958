"""The hash chain: what is hashed, and how."""

import hashlib
import json
from datetime import UTC
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder

from audit.models import Event

#: ``previous_hash`` of the first event.
GENESIS: Final = "0" * 64

_FIELDS: Final = (
    "event",
    "category",
    "level",
    "outcome",
    "actor_id",
    "actor_name",
    "surface",
    "source_address",
    "request_id",
    "target_type",
    "target_id",
    "message",
    "before",
    "after",
)


def hash_of(event: Event) -> str:
    """Return SHA-256 over the previous hash and the event's content as canonical JSON, hexadecimal.

    Canonical: keys sorted, no spaces, UTF-8, times in UTC with microseconds.
    """
    content: dict[str, Any] = {name: getattr(event, name) for name in _FIELDS}
    content["uid"] = str(event.uid)
    content["created_at"] = event.created_at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{event.previous_hash}\n{text}".encode()).hexdigest()


def storable(value: Any) -> Any:
    """Return ``value`` as every database gives it back: plain JSON, whole floats as integers, no NUL."""
    return _normal(json.loads(json.dumps(value, cls=DjangoJSONEncoder)))


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {_normal(key): _normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, float):
        return _normal_float(value)
    if isinstance(value, str):
        # PostgreSQL stores no NUL, and no half of a surrogate pair.
        return value.replace("\0", "�").encode(errors="replace").decode()
    return value


def _normal_float(value: float) -> float | int | str:
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        return str(value)
    return int(value) if value.is_integer() else value
