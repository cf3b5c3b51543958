"""Users: the first owner, roles, and what becomes of records when one is deleted."""

import pytest
from django.db import connection
from django.test import Client

from accounts import services
from accounts.actors import Actor
from accounts.errors import Conflict, Invalid, NotAllowed
from accounts.models import Role, Token, User
from audit.models import Event
from audit.selectors import chain_verify

pytestmark = pytest.mark.django_db


def test_the_first_owner_gets_a_password_made_up_only_when_none_is_given() -> None:
    user, generated = services.owner_ensure("boss", None)
    assert generated
    assert user.check_password(generated)
    assert user.is_owner
    assert user.is_superuser
    again, nothing = services.owner_ensure("boss", "another-one")
    assert again == user
    assert nothing is None
    again.refresh_from_db()
    assert again.check_password(generated), "a second boot changes no password"
    event = Event.objects.get()
    assert event.event == "user.owner_created"
    assert generated not in str(event.after)


def test_the_first_owner_with_a_given_password() -> None:
    user, generated = services.owner_ensure("boss", "given-password")
    assert generated is None
    assert user.check_password("given-password")


def test_an_owner_creates_users_and_others_do_not(owner_actor: Actor, standard: User) -> None:
    made = services.user_create(
        actor=owner_actor, username="new", password="long enough 1", role=Role.GUEST
    )
    assert made.role == "guest"
    with pytest.raises(NotAllowed):
        services.user_create(
            actor=Actor(user=standard, surface="rest"), username="x", password="long enough 1"
        )
    with pytest.raises(Conflict):
        services.user_create(actor=owner_actor, username="new", password="long enough 1")
    for username, password, role in (
        ("a b!", "long enough 1", "guest"),
        ("a", "short", "guest"),
        ("a", "long enough 1", "king"),
    ):
        with pytest.raises(Invalid):
            services.user_create(actor=owner_actor, username=username, password=password, role=role)


def test_deleting_a_user_keeps_their_events_and_the_chain(
    owner_actor: Actor, standard: User
) -> None:
    stan = Actor(user=standard, surface="rest")
    services.token_create(actor=stan, user=standard, name="t")
    services.user_delete(actor=owner_actor, user=standard)
    assert not Token.objects.exists()
    event = Event.objects.get(event="token.created")
    assert event.actor_name == "stan"
    assert not User.objects.filter(pk=event.actor_id).exists()
    connection.check_constraints()
    assert chain_verify().ok
    assert Event.objects.get(event="user.deleted").before["role"] == "standard"


def test_the_last_owner_stays(owner_actor: Actor, owner: User) -> None:
    with pytest.raises(Conflict):
        services.user_delete(actor=owner_actor, user=owner)
    owner = User.objects.get(username="olga")
    owner.role = Role.STANDARD
    with pytest.raises(NotAllowed):
        services.user_save(actor=Actor(user=owner, surface="admin"), user=owner)
    with pytest.raises(Conflict):
        services.user_save(actor=Actor.system(), user=owner)


def test_the_admin_makes_changes_and_deletes_users_and_records_it(
    client: Client, owner: User
) -> None:
    client.force_login(owner)
    added = client.post(
        "/admin/accounts/user/add/",
        {
            "username": "amy",
            "role": "guest",
            "password1": "pw-amy-12345",
            "password2": "pw-amy-12345",
            "usable_password": "true",
        },
    )
    assert added.status_code == 302, added.content.decode()[-3000:]
    amy = User.objects.get(username="amy")
    assert amy.role == "guest"
    changed = client.post(
        f"/admin/accounts/user/{amy.pk}/change/",
        {
            "username": "amy",
            "role": "standard",
            "is_active": "on",
            "email": "",
            "first_name": "",
            "last_name": "",
        },
    )
    assert changed.status_code == 302, changed.content.decode()[-3000:]
    reset = client.post(
        f"/admin/accounts/user/{amy.pk}/password/",
        {"password1": "other-pw-999", "password2": "other-pw-999", "usable_password": "true"},
    )
    assert reset.status_code == 302
    amy.refresh_from_db()
    assert amy.check_password("other-pw-999")
    assert client.post(f"/admin/accounts/user/{amy.pk}/delete/", {"post": "yes"}).status_code == 302
    events = Event.objects.filter(category="user").order_by("id")
    assert [e.event for e in events] == [
        "user.created",
        "user.changed",
        "user.changed",
        "user.deleted",
    ]
    assert events[1].before["role"] == "guest"
    assert events[1].after["role"] == "standard"
    assert "password" in events[2].message
    assert {e.actor_name for e in events} == {"olga"}


def test_the_admin_shows_a_new_token_once_and_no_digest(
    client: Client, owner: User, standard: User
) -> None:
    client.force_login(owner)
    answer = client.post(
        "/admin/accounts/token/add/",
        {"name": "ci", "user": standard.pk, "expires_days": "30", "chosen_scopes": ["chat"]},
        follow=True,
    )
    assert answer.status_code == 200
    token = Token.objects.get(name="ci")
    assert token.scopes == ["chat"]
    page = answer.content.decode()
    assert page.count("mh_") >= 1
    again = client.get("/admin/accounts/token/").content.decode()
    assert "mh_" not in again
    assert client.get(f"/admin/accounts/token/{token.pk}/change/").status_code == 200
    revoked = client.post(f"/admin/accounts/token/{token.pk}/delete/", {"post": "yes"})
    assert revoked.status_code == 302
    assert not Token.objects.exists()
    assert list(
        Event.objects.filter(category="token").order_by("id").values_list("event", flat=True)
    ) == [
        "token.created",
        "token.revoked",
    ]
