"""The Tokens page without JavaScript: shown once, one's own only, revoked after a question."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.actors import Actor
from accounts.models import Token, User
from accounts.selectors import token_find
from accounts.services import token_create
from tests.router.pages.conftest import Reader

pytestmark = pytest.mark.django_db
PAGE = "/admin/accounts/my-tokens/"


def made(user: User, name: str) -> Token:
    return token_create(actor=Actor.system(), user=user, name=name)[0]


def plain_on(html: str) -> str:
    found = re.search(r'value="(mh_\w+)"', html)
    return found[1] if found else ""


def test_a_token_is_made_with_its_scopes_and_shown_once(stan: Reader, standard: User) -> None:
    form = {"name": "laptop", "expires_days": "30", "scopes": ["chat"]}
    html = stan.send(PAGE, form, 200)
    token = Token.objects.get(name="laptop")
    assert token_find(plain_on(html)) == token
    assert (token.user, token.scopes) == (standard, ["chat"])
    assert token.expiry - token.created < timedelta(days=31)
    again = stan.page(PAGE)
    assert "laptop" in again
    assert plain_on(again) == ""


def test_a_token_can_be_for_ever(stan: Reader) -> None:
    stan.send(PAGE, {"name": "x", "expires_days": "never"}, 200)
    assert Token.objects.get().expiry is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"expires_days": "soon"}, "expires_days"),
        ({"expires_days": "0"}, "expires_days"),
        ({"scopes": ["fly"]}, "scopes"),
    ],
)
def test_what_is_wrong_is_told_at_its_field(
    stan: Reader, change: dict[str, str], field: str
) -> None:
    html = stan.send(PAGE, {"name": "ok", "expires_days": "30", **change}, 422)
    at = html.split(f'data-field="{field}"')[1].split("data-field=")[0]
    assert re.search(r"data-field-error>[^<]+<", at)
    assert not Token.objects.exists()


def test_nobody_sees_makes_or_revokes_somebody_elses_token(
    stan: Reader, standard: User, owner: User
) -> None:
    theirs = made(owner, "olgas secret")
    assert "olgas secret" not in stan.page(PAGE)
    assert "olgas secret" not in stan.page(f"{PAGE}?user=olga")
    stan.send(PAGE, {"name": "x", "expires_days": "30", "user": "olga"}, 403)
    stan.send(f"{PAGE}revoke/", {"id": theirs.public_id, "confirmed": "1"})
    assert Token.objects.filter(pk=theirs.pk).exists()
    assert not Token.objects.filter(name="x").exists()
    assert "There is no token" in stan.page(PAGE)


def test_an_owner_sees_everybodys_filters_them_and_makes_one_for_another(
    boss: Reader, standard: User, owner: User
) -> None:
    made(standard, "stans")
    made(owner, "olgas")
    html = boss.page(PAGE)
    assert "stans" in html
    assert "olgas" in html
    only = boss.page(f"{PAGE}?user=stan").split("<tbody>")[1]
    assert "stans" in only
    assert "olgas" not in only
    boss.send(PAGE, {"name": "for stan", "expires_days": "30", "user": "stan"}, 200)
    assert Token.objects.get(name="for stan").user == standard


def test_a_token_is_revoked_after_a_question(stan: Reader, standard: User) -> None:
    token = made(standard, "old")
    asked = stan.send(f"{PAGE}revoke/", {"id": token.public_id}, 200)
    assert "is refused from its next request on" in asked
    assert Token.objects.exists()
    assert stan.send(f"{PAGE}revoke/", {"id": token.public_id, "confirmed": "1"}) == PAGE
    assert not Token.objects.exists()


def test_one_that_has_expired_says_so(stan: Reader, standard: User) -> None:
    token = made(standard, "old")
    Token.objects.filter(pk=token.pk).update(expiry=timezone.now() - timedelta(days=1))
    assert ">expired<" in stan.page(PAGE)


def test_a_user_is_offered_no_scope_they_do_not_have(stan: Reader, boss: Reader) -> None:
    assert "audit:read" not in stan.page(PAGE)
    assert "audit:read" in boss.page(PAGE)


def test_the_sidebar_leads_to_this_page_and_owners_still_find_the_other(
    stan: Reader, boss: Reader
) -> None:
    assert f'href="{PAGE}"' in stan.page("/admin/router/roles/")
    html = boss.page(PAGE)
    assert 'href="/admin/accounts/token/"' in html
    assert "/admin/accounts/token/" not in stan.page(PAGE)
