"""Records as requests leave them."""

from datetime import UTC, datetime
from typing import Any, Protocol

import pytest

from accounts.models import User
from router.usage import storing
from router.usage.recording import Record


class Made(Protocol):
    def __call__(self, **more: Any) -> Record: ...


def made(**more: Any) -> Record:
    """A record of a chat that went well."""
    values: dict[str, Any] = {
        "user_id": None,
        "user_name": "stan",
        "surface": "rest",
        "kind": "chat",
        "outcome": "done",
        "total_ms": 20.0,
        "at": datetime.now(tz=UTC),
        "provider": "active",
        "backend": "vllm",
        "model": "m",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "ttft_ms": 8.0,
        "queued_ms": 1.0,
    }
    return Record(**{**values, **more})


def stored(user: User, **more: Any) -> Record:
    record = made(user_id=user.pk, user_name=user.get_username(), **more)
    storing.write([record])
    return record


@pytest.fixture
def no_defaults(settings: Any) -> None:
    settings.MH_QUOTA_REQUESTS_PER_MINUTE = 0
    settings.MH_QUOTA_TOKENS_PER_DAY = 0
    settings.MH_QUOTA_TOKENS_PER_MONTH = 0
