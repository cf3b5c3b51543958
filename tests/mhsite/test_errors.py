"""One shape for every error, on every API path; and the middleware around it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from accounts import errors as mh
from accounts.models import User
from accounts.requests import current_request_id
from mhsite.limits import body_limit

pytestmark = pytest.mark.django_db
RAISES: dict[str, Exception] = {
    "mh": mh.Unavailable("Wait.", retry_after=7, param="model"),
    "bug": RuntimeError("secret-in-a-bug /home/x"),
    "404": Http404("gone"),
    "403": PermissionDenied("no"),
    "400": SuspiciousOperation("odd"),
    "deep": RecursionError(),
}


def sync_view(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISES[what]


async def async_view(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISES[what]


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "a"
        await asyncio.sleep(0)
        yield current_request_id()

    return StreamingHttpResponse(parts())


class Slow(BaseThrottle):
    def allow_request(self, request: Request, view: APIView) -> bool:
        return False

    def wait(self) -> float:
        return 12.4


class Body(serializers.Serializer[Any]):
    inner = serializers.ListField(child=serializers.IntegerField())


class Rest(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        raise RAISES[request.query_params["what"]]

    def post(self, request: Request) -> Response:
        Body(data=request.data).is_valid(raise_exception=True)
        return Response({})


class Throttled(Rest):
    throttle_classes = (Slow,)


urlpatterns = [
    path("api/t/sync/<str:what>", sync_view),
    path("api/t/async/<str:what>", async_view),
    path("api/t/stream", stream),
    path("api/t/rest", Rest.as_view()),
    path("api/t/throttled", Throttled.as_view()),
    path("page/<str:what>", sync_view),
    path("", include("mhsite.urls")),
]
SHAPE = {"message", "type", "code", "param", "request_id"}


@pytest.fixture(autouse=True)
def _urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def visitor() -> Client:
    return Client(raise_request_exception=False)


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.headers["Content-Type"].startswith("application/json"), answer.content
    error: dict[str, Any] = json.loads(answer.content)["error"]
    assert set(error) == SHAPE
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.content.decode()
    return error


@pytest.mark.parametrize("how", ["sync/{}", "async/{}", "rest?what={}"])
@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("mh", 503, "unavailable"),
        ("bug", 500, "internal_error"),
        ("404", 404, "not_found"),
        ("403", 403, "not_allowed"),
        ("400", 400, "invalid_request"),
        ("deep", 400, "invalid_json"),
    ],
)
def test_whatever_a_view_raises_has_the_one_shape(
    visitor: Client, how: str, what: str, status: int, code: str
) -> None:
    answer = visitor.get(f"/api/t/{how.format(what)}")
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code)
    assert "secret-in-a-bug" not in answer.content.decode()
    if what == "mh":
        assert answer.headers["Retry-After"] == "7"
        assert error["param"] == "model"


async def test_an_async_server_answers_the_same() -> None:
    visitor = AsyncClient(raise_request_exception=False)
    for what, status in (("bug", 500), ("mh", 503)):
        answer = await visitor.get(f"/api/t/async/{what}")
        assert answer.status_code == status
        error_of(answer)


def test_pages_keep_html_errors(visitor: Client) -> None:
    for path_, status in (
        ("/page/404", 404),
        ("/page/403", 403),
        ("/nowhere", 404),
        ("/page/bug", 500),
    ):
        answer = visitor.get(path_)
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "secret-in-a-bug" not in answer.content.decode()


def test_an_unexpected_error_is_logged_with_its_request_id(
    visitor: Client, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.get("/api/t/sync/bug", headers={"X-Request-ID": "find-me"})
    assert any("find-me" in r.getMessage() and r.exc_info for r in caplog.records)


@pytest.mark.parametrize(
    "path_", ["/api/nowhere", "/v1/nowhere", "/ollama/x", "/health/x", "/metrics/x"]
)
def test_an_unknown_path_is_404_in_shape(visitor: Client, path_: str, owner: User) -> None:
    visitor.force_login(owner)
    answer = visitor.get(path_)
    assert answer.status_code == 404
    error_of(answer)


def test_a_wrong_method_is_405_and_says_which_are_right(visitor: Client) -> None:
    for path_ in ("/api/t/rest", "/health/live"):
        answer = visitor.delete(path_)
        assert answer.status_code == 405
        assert error_of(answer)["code"] == "method_not_allowed"
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "param"),
    [
        ("{", "application/json", 400, None),
        ("\xff\xfe", "application/json", 400, None),
        ("[" * 100_000, "application/json", 400, None),
        ('{"inner": NaN}', "application/json", 400, None),
        ('{"inner": ["x"]}', "application/json", 422, "inner.0"),
        ('{"inner": "x"}', "application/json", 422, "inner"),
        ("{}", "application/json", 422, "inner"),
        ("[]", "application/json", 422, None),
        ("null", "application/json", 422, None),
        ("<x/>", "text/xml", 415, None),
        ("a=b", "application/x-www-form-urlencoded", 415, None),
    ],
)
def test_a_body_of_the_wrong_shape(
    visitor: Client, body: str, kind: str, status: int, param: str | None
) -> None:
    answer = visitor.post("/api/t/rest", body.encode("latin-1"), content_type=kind)
    assert answer.status_code == status, answer.content
    assert error_of(answer)["param"] == param


def test_too_fast_is_429_with_the_seconds_to_wait(visitor: Client) -> None:
    answer = visitor.get("/api/t/throttled")
    assert answer.status_code == 429
    assert error_of(answer)["type"] == "rate_limit_error"
    assert answer.headers["Retry-After"] == "13"


def test_a_host_we_do_not_serve_is_400(visitor: Client) -> None:
    answer = visitor.get("/api/t/rest?what=mh", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    error_of(answer)


@override_settings(MH_MAX_BODY_BYTES=100)
def test_a_huge_body_is_413(visitor: Client) -> None:
    answer = visitor.post("/api/t/rest", b"x" * 101, content_type="application/json")
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_large"


# Request ids


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 128])
def test_a_good_request_id_is_kept(visitor: Client, given: str) -> None:
    answer = visitor.get("/health/live", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", "é", "<script>"])
def test_a_bad_request_id_is_replaced(visitor: Client, given: str) -> None:
    answer = visitor.get("/health/live", headers={"X-Request-ID": given})
    assert len(answer.headers["X-Request-ID"]) == 32
    assert current_request_id() == ""


async def test_a_stream_knows_its_request_id() -> None:
    answer = await AsyncClient().get("/api/t/stream", headers={"X-Request-ID": "s1"})
    parts = [part async for part in answer.streaming_content]
    assert b"".join(parts) == b"as1"


# Cross-origin


@override_settings(MH_CORS_ORIGINS=["https://app.example"])
def test_only_named_origins_may_use_the_api_from_a_page(visitor: Client) -> None:
    ask = {"Access-Control-Request-Method": "POST"}
    good = visitor.options("/api/chat", headers={"Origin": "https://app.example", **ask})
    assert good.status_code == 204
    assert good.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Authorization" in good.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in good.headers
    bad = visitor.options("/api/chat", headers={"Origin": "https://evil.example", **ask})
    assert "Access-Control-Allow-Origin" not in bad.headers
    refused = visitor.get("/api/auth/me", headers={"Origin": "https://app.example"})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == "https://app.example", (
        "errors are readable"
    )
    assert "Origin" in refused.headers["Vary"]


def test_no_origin_is_allowed_by_default(visitor: Client) -> None:
    answer = visitor.get("/api/auth/me", headers={"Origin": "http://localhost:3000"})
    assert "Access-Control-Allow-Origin" not in answer.headers


# The async path


async def test_no_middleware_leaves_the_event_loop_for_a_request_with_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from asgiref import sync

    hops: list[str] = []
    call = sync.SyncToAsync.__call__

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(getattr(self.func, "__qualname__", str(self.func)))
        return await call(self, *args, **kwargs)

    client = AsyncClient()
    await client.get("/api/t/stream")  # what is loaded once is loaded
    monkeypatch.setattr(sync.SyncToAsync, "__call__", counted)
    answer = await client.get("/api/t/stream", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 200
    assert [hop for hop in hops if "process" in hop] == []


async def drive(app: Any, messages: list[dict[str, Any]], headers: list[Any]) -> list[Any]:
    sent: list[Any] = []
    queue = list(messages)

    async def receive() -> dict[str, Any]:
        return queue.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "headers": headers}, receive, send)
    sent.append(len(queue))
    return sent


async def reading_app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read"})


@override_settings(MH_MAX_BODY_BYTES=10)
async def test_the_server_refuses_a_long_body_before_receiving_it() -> None:
    chunk = {"type": "http.request", "body": b"x" * 6, "more_body": True}
    announced = await drive(body_limit(reading_app), [chunk] * 3, [(b"content-length", b"18")])
    assert announced[0]["status"] == 413
    assert announced[-1] == 3, "nothing was received"
    chunked = await drive(body_limit(reading_app), [chunk] * 3, [])
    assert chunked[0]["status"] == 413
    assert json.loads(chunked[1]["body"])["error"]["code"] == "body_too_large"
    assert chunked[-1] == 1, "it stopped as soon as it was over"
    last = {"type": "http.request", "body": b"x" * 4}
    fits = await drive(body_limit(reading_app), [{**chunk}, last], [])
    assert fits[0]["status"] == 200
