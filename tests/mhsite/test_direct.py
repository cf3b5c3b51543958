"""Which requests skip Django's middleware, and that nobody can tell by the answer."""

from typing import Any

import pytest
from django.test import Client

from mhsite.direct import _plain, common_headers

BEARER = (b"authorization", b"Bearer mh_x")
HOST = (b"host", b"localhost:8080")


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [HOST, BEARER, *headers],
        **more,
    }


def test_a_programs_request_is_answered_directly() -> None:
    assert _plain(scope()) is not None
    assert _plain(scope(path="/v1/completions")) is not None


@pytest.mark.parametrize(
    "other",
    [
        scope(method="GET"),
        scope(path="/v1/models"),
        scope((b"origin", b"http://elsewhere.example")),
        scope((b"authorization", b"Bearer again")),
        scope(headers=[HOST]),
        scope(headers=[HOST, (b"authorization", b"Basic eDp5")]),
        scope(headers=[BEARER]),
        scope(headers=[(b"host", b"evil.example"), BEARER]),
    ],
)
def test_everything_else_is_left_to_django(other: dict[str, Any]) -> None:
    assert _plain(other) is None


def test_behind_a_tls_proxy_only_requests_that_came_by_tls(settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert _plain(scope()) is None
    assert _plain(scope((b"x-forwarded-proto", b"http"))) is None
    assert _plain(scope((b"x-forwarded-proto", b"https"))) is not None


@pytest.mark.django_db
def test_the_headers_are_those_of_the_middleware() -> None:
    common_headers.cache_clear()
    answer = Client().post(
        "/v1/chat/completions", data="{}", content_type="application/json",
        headers={"authorization": "Bearer mh_unknown"},
    )  # fmt: skip
    own = {"content-type", "x-request-id", "www-authenticate", "content-length"}
    theirs = {name.lower(): value for name, value in answer.items() if name.lower() not in own}
    ours = {name.decode(): value.decode() for name, value in common_headers(False)}
    assert ours == {name: value for name, value in theirs.items() if name != "vary"}
