"""``mh usage``."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from accounts.models import User
from router.usage import storing
from tests.mhsite.test_cli import Ran, mh, site  # noqa: F401 - fixtures
from tests.router.usage.conftest import made


def test_what_requests_cost_is_shown_as_rows_and_as_sums(
    mh: Callable[..., Ran], site: None
) -> None:
    user = User.objects.get(username="owner")
    long_ago = datetime.now(tz=UTC) - timedelta(days=9)
    storing.write(
        [
            made(user_id=user.pk, user_name="owner", model="a"),
            made(user_id=None, user_name="anna", model="b", at=long_ago, ttft_ms=None),
        ]
    )
    rows: list[dict[str, Any]] = mh("usage", "--json").json()["results"]
    assert [(row["user"], row["model"]) for row in rows] == [("anna", "b"), ("owner", "a")]
    assert "anna\trest\tb\tdone\t15\t-\t20 ms" in mh("usage", "--user", "anna").out
    assert mh("usage", "--user", "anna", "--days", "2").err == "No requests.\n"
    groups = mh("usage", "--by", "model", "--json").json()
    assert groups["group_by"] == "model"
    assert [(group["group"], group["requests"]) for group in groups["results"]] == [
        ("a", 1),
        ("b", 1),
    ]
    assert mh("usage", "--by", "user").out.startswith("anna\t1\t0\t15\t-\t20 ms")
