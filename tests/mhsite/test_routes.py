"""Who may do what: every route of the site, by everybody. A route this table lacks fails the test."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from accounts.actors import Actor
from accounts.models import User
from accounts.services import token_create
from audit.models import Event
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db

PUBLIC, GUEST, STANDARD, OWNER = "public", "guest", "standard", "owner"
ROLES = ("guest", "standard", "owner")
OLLAMA_ELSEWHERE = r"^ollama/api/(?P<what>pull|push|delete|create|copy|blobs)(?P<rest>/.*)?$"
#: Route, then method, then the least who may.
TABLE: dict[str, dict[str, str]] = {
    "": {"GET": PUBLIC},
    "api/auth/login": {"POST": PUBLIC},
    "api/auth/logout": {"POST": GUEST},
    "api/auth/me": {"GET": GUEST},
    "api/users": {"GET": OWNER},
    "api/tokens": {"GET": STANDARD, "POST": STANDARD},
    "api/tokens/<str:public_id>": {"DELETE": STANDARD},
    "api/audit/events": {"GET": OWNER},
    "api/audit/verify": {"GET": OWNER},
    "api/audit/export": {"GET": OWNER},
    "api/llm-backend/status": {"GET": GUEST},
    "api/llm-backend/detect": {"GET": GUEST},
    "api/llm-backend/samples": {"GET": GUEST},
    "api/llm-backend/auto": {"POST": OWNER},
    "api/llm-backend/startup": {"GET": OWNER, "PATCH": OWNER},
    "api/llm-backend/switch": {"POST": OWNER},
    "api/llm-backend/operations": {"GET": OWNER},
    "api/llm-backend/operations/<str:operation_id>": {"GET": OWNER},
    "api/llm-backend/operations/<str:operation_id>/cancel": {"POST": OWNER},
    "api/llm-backend/<str:name>/start": {"POST": OWNER},
    "api/llm-backend/<str:name>/stop": {"POST": OWNER},
    "api/llm-backend/<str:name>/restart": {"POST": OWNER},
    "api/llm-backend/<str:name>/config": {"GET": OWNER, "PATCH": OWNER},
    "api/llm-backend/<str:name>/revisions": {"GET": OWNER},
    "api/llm-backend/<str:name>/revisions/<int:number>/restore": {"POST": OWNER},
    "api/llm-backend/<str:name>/install": {"POST": OWNER},
    "api/llm-backend/<str:name>/model": {"POST": OWNER},
    "api/llm-backend/<str:name>/plan": {"POST": OWNER},
    "api/llm-backend/<str:name>/models": {"GET": OWNER, "POST": OWNER},
    "api/llm-backend/<str:name>/models/<path:model_id>": {"DELETE": OWNER},
    "api/llm-backend/<str:name>/logs": {"GET": OWNER},
    "api/chat": {"POST": STANDARD},
    "api/models": {"GET": STANDARD, "POST": STANDARD},
    "api/models/<path:entry_id>": {"GET": STANDARD, "PATCH": STANDARD, "DELETE": STANDARD},
    "api/roles": {"GET": STANDARD},
    "api/roles/<str:name>": {"GET": STANDARD, "PUT": STANDARD, "DELETE": STANDARD},
    "api/providers": {"GET": STANDARD, "POST": OWNER},
    "api/providers/<str:name>": {"GET": OWNER, "PATCH": OWNER, "DELETE": OWNER},
    "api/providers/<str:name>/check": {"POST": OWNER},
    "api/deployment": {"GET": OWNER, "PATCH": OWNER},
    "v1/models": {"GET": STANDARD},
    "v1/models/<path:model_id>": {"GET": STANDARD},
    "v1/chat/completions": {"POST": STANDARD},
    "v1/completions": {"POST": STANDARD},
    "v1/embeddings": {"POST": STANDARD},
    "v1/responses": {"POST": STANDARD},
    "^v1/(?P<rest>.*)$": {"GET": PUBLIC},  # nothing is there: 404 for everybody
    "ollama/": {"GET": PUBLIC},
    "ollama/api/version": {"GET": STANDARD},
    "ollama/api/tags": {"GET": STANDARD},
    "ollama/api/ps": {"GET": STANDARD},
    "ollama/api/show": {"POST": STANDARD},
    "ollama/api/chat": {"POST": STANDARD},
    "ollama/api/generate": {"POST": STANDARD},
    "ollama/api/embed": {"POST": STANDARD},
    "ollama/api/embeddings": {"POST": STANDARD},
    OLLAMA_ELSEWHERE: {"POST": STANDARD, "DELETE": STANDARD},
    "^ollama/(?P<rest>.+)$": {"GET": PUBLIC},  # as under v1
    "api/usage": {"GET": STANDARD},
    "api/usage/quotas": {"GET": OWNER},
    "api/usage/quotas/<str:username>": {"GET": OWNER, "PUT": OWNER, "DELETE": OWNER},
    "metrics": {"GET": PUBLIC},  # from this machine; with a token that is not good, nobody
    "health/live": {"GET": PUBLIC},
    "health/ready": {"GET": PUBLIC},
    "api/schema": {"GET": GUEST},
    "api/docs": {"GET": GUEST},
}
#: Admin pages that are not for owners only: everybody who may enter.
ADMIN_ENTER = {
    "admin/",
    "admin/backends/llm-backend/",
    "admin/router/chat/",
    "admin/router/chat/ask",
    "admin/charts/",
    "admin/search/",
    "admin/logout/",
    "admin/password_change/",
    "admin/password_change/done/",
    "admin/jsi18n/",
}
#: Those of them that are for standard users, too, but not for guests.
ADMIN_STANDARD = {
    "admin/accounts/my-tokens/",
    "admin/accounts/my-tokens/revoke/",
    "admin/router/roles/",
    "admin/router/roles/add/",
    "admin/router/roles/change/",
    "admin/router/roles/model/",
    "admin/router/roles/model/delete/",
    "admin/router/usage/",
}
ADMIN_PUBLIC = {"admin/login/"}
#: Nothing of their own: they answer 404, or redirect to a page in this table.
ADMIN_NOTHING = {"admin/(?P<url>.*)$", "admin/r/<path:content_type_id>/<path:object_id>/"}
VALUES = {
    "<str:public_id>": "tok_none",
    "<str:operation_id>": "00000000-0000-0000-0000-000000000000",
    "<str:name>": "nosuch",
    "<str:username>": "nosuch",
    "<path:model_id>": "nosuch",
    "<path:entry_id>": "nosuch",
    "<slug:name>": "vllm",
    "<int:number>": "0",
    "<slug:action>": "start",
    "<uuid:operation_id>": "00000000-0000-0000-0000-000000000000",
    "<path:object_id>": "999999",
    "<path:content_type_id>": "999999",
    "<id>": "999999",
    "^v1/(?P<rest>.*)$": "v1/nosuch",
    OLLAMA_ELSEWHERE: "ollama/api/pull",
    "^ollama/(?P<rest>.+)$": "ollama/nosuch",
    "^(?P<app_label>accounts)/$": "accounts/",
}


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for pattern in patterns if patterns is not None else get_resolver().url_patterns:
        name = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, name)
        else:
            yield name, pattern


def url_of(route: str) -> str:
    for part, value in VALUES.items():
        route = route.replace(part, value)
    assert "<" not in route, f"give {route} a value in VALUES"
    return f"/{route}"


def error_of(answer: Any) -> Any:
    """The error, in the one shape and in that which Ollama's clients read."""
    body = answer.json()
    if not isinstance(body["error"], str):
        return body["error"]
    assert answer.wsgi_request.path.startswith("/ollama/")
    return {**body, "message": body["error"]}


def least(wanted: str) -> int:
    return -1 if wanted == PUBLIC else ROLES.index(wanted)


API = [(route, method) for route, methods in TABLE.items() for method in methods]
ADMIN = sorted({route for route, _ in routes() if route.startswith("admin/")})


def test_every_route_and_method_is_in_the_table() -> None:
    found = {route: pattern for route, pattern in routes() if not route.startswith("admin/")}
    assert set(found) == set(TABLE), "put new routes into TABLE, with the least who may"
    for route, pattern in found.items():
        view = getattr(pattern.callback, "view_class", None)
        if view is None or route == "":
            continue
        methods = {m for m in ("GET", "POST", "PUT", "PATCH", "DELETE") if hasattr(view, m.lower())}
        assert methods == set(TABLE[route]), route


@pytest.fixture
def users(guest: User, standard: User, owner: User) -> dict[str, User]:
    return {"guest": guest, "standard": standard, "owner": owner}


def ask(client: Client, route: str, method: str, **headers: str) -> Any:
    body = {} if method == "GET" else {"data": "{}", "content_type": "application/json"}
    return getattr(client, method.lower())(url_of(route), headers=headers, **body)


@fault(35)
@pytest.mark.parametrize(("route", "method"), API)
def test_nobody_signed_in_hears_401(route: str, method: str) -> None:
    answer = ask(Client(), route, method)
    if TABLE[route][method] == PUBLIC:
        assert answer.status_code not in {401, 403}
        return
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert error_of(answer)["type"] == "authentication_error"


@fault(41)
@pytest.mark.parametrize(("route", "method"), API)
def test_each_role_may_what_the_table_says_by_session_and_by_token(
    users: dict[str, User], route: str, method: str
) -> None:
    for rank, role in enumerate(ROLES):
        user = users[role]
        _, plain = token_create(actor=Actor.system(), user=user, name="matrix")
        by_session = Client()
        by_session.force_login(user)
        for client, headers in ((by_session, {}), (Client(), {"Authorization": f"Bearer {plain}"})):
            before = Event.objects.filter(outcome="refused", actor=user).count()
            answer = ask(client, route, method, **headers)
            refusals = Event.objects.filter(outcome="refused", actor=user).count() - before
            if rank >= least(TABLE[route][method]):
                assert answer.status_code not in {401, 403, 405, 500}, (role, answer.content)
                assert refusals == 0
            else:
                assert answer.status_code == 403, (role, answer.content)
                error = error_of(answer)
                assert error["type"] == "permission_error"
                assert error["request_id"] == answer.headers["X-Request-ID"]
                assert refusals == 1, "a refusal is recorded once"
                event = Event.objects.filter(outcome="refused").latest("id")
                assert event.request_id == error["request_id"]


@fault(41)
@pytest.mark.parametrize("route", ADMIN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_admin_pages_are_for_owners_but_for_a_few(
    users: dict[str, User], route: str, method: str
) -> None:
    anonymous = ask_page(Client(), route, method)
    if route not in ADMIN_PUBLIC:
        assert anonymous in {302, 403, 404, 405}, anonymous
    for role in ("guest", "standard"):
        client = Client()
        client.force_login(users[role])
        status = ask_page(client, route, method)
        if route in ADMIN_NOTHING:
            assert status in {301, 302, 404}
        elif role == "standard" and route in ADMIN_STANDARD:
            assert status in {200, 302, 404, 405, 422}, status
        elif route not in ADMIN_ENTER | ADMIN_PUBLIC:
            assert status in {302, 403, 404, 405}, (role, status)


def ask_page(client: Client, route: str, method: str) -> int:
    url = url_of(route.replace("(?P<url>.*)$", "nowhere"))
    answer = client.get(url) if method == "GET" else client.post(url, {})
    if answer.status_code == 302:
        location = answer.headers["Location"]
        assert location.startswith("/admin/"), location
    status: int = answer.status_code
    return status


def test_a_standard_user_changes_nothing_in_the_admin(users: dict[str, User]) -> None:
    client = Client()
    client.force_login(users["standard"])
    made = client.post(
        "/admin/accounts/user/add/",
        {
            "username": "eve",
            "role": "owner",
            "password1": "pw-eve-12345",
            "password2": "pw-eve-12345",
        },
    )
    assert made.status_code in {302, 403}
    assert not User.objects.filter(username="eve").exists()
