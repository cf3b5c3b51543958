"""Bearer tokens: made, used, limited, revoked; and nobody's business but their owner's."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone

from accounts import selectors, services
from accounts.actors import Actor
from accounts.errors import Invalid, NotAllowed, NotAuthenticated, NotFound
from accounts.models import Token, User
from accounts.permissions import Permission
from audit.models import Event
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db


def actor(user: User, *scopes: str) -> Actor:
    return Actor(user=user, surface="rest", request_id="r1", scopes=scopes)


def bearer(plain: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {plain}"}


def made(user: User, **wanted: Any) -> tuple[Token, str]:
    return services.token_create(actor=actor(user), user=user, name="test", **wanted)


def test_a_token_signs_in_and_is_not_kept_in_the_database(client: Client, standard: User) -> None:
    token, plain = made(standard)
    answer = client.get("/api/auth/me", headers=bearer(plain))
    assert answer.status_code == 200
    assert answer.json()["username"] == "stan"
    row = Token.objects.values().get(pk=token.pk)
    assert plain not in json.dumps(row, default=str)


def test_a_new_token_is_shown_once_over_rest(client: Client, standard: User) -> None:
    _, plain = made(standard)
    answer = client.post(
        "/api/tokens", {"name": "laptop"}, content_type="application/json", headers=bearer(plain)
    )
    assert answer.status_code == 201
    shown = answer.json()["token"]
    assert shown.startswith("mh_")
    listed = client.get("/api/tokens", headers=bearer(plain))
    assert shown not in listed.content.decode()
    assert {token["name"] for token in listed.json()["results"]} == {"test", "laptop"}


def test_creating_and_revoking_are_recorded_without_the_token(standard: User) -> None:
    token, plain = made(standard, scopes=["chat"])
    services.token_revoke(actor=actor(standard), public_id=token.public_id)
    created, revoked = Event.objects.filter(category="token").order_by("id")
    assert (created.event, revoked.event) == ("token.created", "token.revoked")
    assert created.target_id == revoked.target_id == token.public_id
    assert created.after["scopes"] == ["chat"]
    assert plain not in json.dumps([created.after, revoked.before])


def test_a_revoked_token_stops_at_once(client: Client, standard: User) -> None:
    token, plain = made(standard)
    assert client.get("/api/auth/me", headers=bearer(plain)).status_code == 200
    services.token_revoke(actor=actor(standard), public_id=token.public_id)
    answer = client.get("/api/auth/me", headers=bearer(plain))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_token"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_expired_token_and_an_inactive_user_are_refused(standard: User) -> None:
    token, plain = made(standard, expires_days=1)
    assert services.token_use(plain) == token
    Token.objects.filter(pk=token.pk).update(expiry=timezone.now() - timedelta(seconds=1))
    with pytest.raises(NotAuthenticated):
        services.token_use(plain)
    _, other = made(standard, expires_days=None)
    standard.is_active = False
    standard.save()
    with pytest.raises(NotAuthenticated):
        services.token_use(other)


@pytest.mark.parametrize("plain", ["", "x", "mh_" + "0" * 64, "ü" * 20, "a" * 100_000, "\ud800"])
def test_nonsense_is_no_token(client: Client, db: None, plain: str) -> None:
    with pytest.raises(NotAuthenticated):
        services.token_use(plain)


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer a b", "bearer \xff\xfe"])
def test_a_malformed_authorization_header_is_401(client: Client, db: None, header: str) -> None:
    answer = client.get("/api/auth/me", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_use_is_noted_at_most_once_a_minute(standard: User) -> None:
    token, plain = made(standard)
    services.token_use(plain)
    token.refresh_from_db()
    first = token.last_used_at
    assert first is not None
    services.token_use(plain)
    token.refresh_from_db()
    assert token.last_used_at == first
    Token.objects.update(last_used_at=first - timedelta(seconds=61))
    services.token_use(plain)
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert token.last_used_at >= first


def test_scopes_narrow_and_never_widen(client: Client, standard: User, owner: User) -> None:
    _, plain = made(owner, scopes=["status:read"])
    me = client.get("/api/auth/me", headers=bearer(plain)).json()
    assert me["permissions"] == ["status:read"]
    refused = client.get("/api/audit/events", headers=bearer(plain))
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "scope_missing"
    _, wide = made(standard, scopes=["audit:read"])
    assert client.get("/api/audit/events", headers=bearer(wide)).status_code == 403


def test_a_limited_token_cannot_make_a_wider_one(owner: User) -> None:
    limited = actor(owner, Permission.TOKENS_OWN, Permission.CHAT)
    for scopes in ([], ["audit:read"], ["chat", "audit:read"]):
        with pytest.raises(NotAllowed):
            services.token_create(actor=limited, user=owner, name="wider", scopes=scopes)
    services.token_create(actor=limited, user=owner, name="narrower", scopes=["chat"])
    assert Event.objects.filter(outcome="refused").count() == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"expires_days": 0},
        {"expires_days": 4000},
        {"scopes": ["root"]},
    ],
)
def test_values_out_of_bounds_are_named(standard: User, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        services.token_create(actor=actor(standard), user=standard, **{"name": "ok", **wrong})
    assert caught.value.param == next(iter(wrong))


@pytest.mark.parametrize(
    "body",
    [
        '{"name": null}',
        "[]",
        '"x"',
        "{}",
        '{"name": "a", "expires_days": "soon"}',
    ],
)
def test_wrong_types_over_rest_are_422_in_the_error_shape(
    client: Client, standard: User, body: str
) -> None:
    _, plain = made(standard)
    answer = client.post(
        "/api/tokens", body, content_type="application/json", headers=bearer(plain)
    )
    assert answer.status_code in {400, 422}, answer.content
    assert set(answer.json()["error"]) == {"message", "type", "code", "param", "request_id"}


@fault(40)
def test_one_users_tokens_are_invisible_to_another(
    client: Client, standard: User, owner: User
) -> None:
    token, _ = made(owner)
    _, plain = made(standard)
    assert [
        t["user"] for t in client.get("/api/tokens", headers=bearer(plain)).json()["results"]
    ] == ["stan"]
    by_name = client.get("/api/tokens?user=olga", headers=bearer(plain))
    assert by_name.json()["results"] == []
    gone = client.delete(f"/api/tokens/{token.public_id}", headers=bearer(plain))
    assert gone.status_code == 404
    assert Token.objects.filter(pk=token.pk).exists()


def test_a_standard_user_cannot_make_a_token_for_another(
    client: Client, standard: User, owner: User
) -> None:
    _, plain = made(standard)
    for name in ("olga", "nobody"):
        answer = client.post(
            "/api/tokens",
            {"name": "x", "user": name},
            content_type="application/json",
            headers=bearer(plain),
        )
        assert answer.status_code == 403
    with pytest.raises(NotAllowed):
        services.token_create(actor=actor(standard), user=owner, name="x")


def test_an_owner_sees_and_revokes_everybodys(client: Client, standard: User, owner: User) -> None:
    token, _ = made(standard)
    _, plain = made(owner)
    found = client.get("/api/tokens?user=stan", headers=bearer(plain)).json()["results"]
    assert [t["id"] for t in found] == [token.public_id]
    assert client.delete(f"/api/tokens/{token.public_id}", headers=bearer(plain)).status_code == 204
    with pytest.raises(NotFound):
        selectors.token_get(actor=actor(owner), public_id=token.public_id)


def test_a_bad_token_is_recorded_once_a_minute_and_never_in_clear(client: Client, db: None) -> None:
    for _ in range(3):
        client.get("/api/auth/me", headers=bearer("mh_0123456789abcdef0123456789abcdef"))
    event = Event.objects.get(event="token.refused")
    assert "mh_0123" not in f"{event.message}{event.after}"
    assert event.source_address == "127.0.0.1"


def test_a_bearer_header_shuts_out_the_session(client: Client, owner: User) -> None:
    client.force_login(owner)
    answer = client.get("/api/auth/me", headers=bearer("mh_wrong"))
    assert answer.status_code == 401
    page = client.get("/admin/audit/event/", headers=bearer("mh_wrong"))
    assert page.status_code == 302, "a page must not be served to a session that came with a token"
    assert client.get("/api/auth/me").status_code == 200, "the session itself is still good"


@pytest.mark.django_db(transaction=True)
async def test_plain_async_views_know_tokens_and_sessions(owner: User) -> None:
    from asgiref.sync import sync_to_async

    _, plain = await sync_to_async(made)(owner)
    client = AsyncClient()
    assert (await client.get("/api/audit/export", headers=bearer(plain))).status_code == 200
    assert (await client.get("/api/audit/export", headers=bearer("mh_no"))).status_code == 401
    assert (await client.get("/api/audit/export")).status_code == 401
    await client.aforce_login(owner)
    assert (await client.get("/api/audit/export")).status_code == 200
