"""The Providers page without JavaScript: accounts added, tried, changed and removed; keys never shown."""

from typing import Any

import pytest

from accounts.errors import Unavailable
from accounts.models import User
from router.errors import ProviderRefused
from router.models import Deployment, ModelEntry, ProviderAccount, Role, RoleLink
from router.providers.openai import OpenAI
from tests.router.pages.conftest import Reader

pytestmark = pytest.mark.django_db
PAGE = "/admin/router/providers/"
FORM = f"{PAGE}account/"
NEW = f"{FORM}?kind=openai"
#: Its end is looked for on whole pages, which are full of digits.
KEY = "sk-never-to-be-seen-QvKxZpWj"
TYPED = {
    "kind": "openai",
    "name": "openrouter",
    "settings.baseUrl": "https://openrouter.ai/api/v1",
    "settings.apiKey": KEY,
}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the provider answers when credentials are tried; an error is raised."""
    said: dict[str, Any] = {"answer": "The key works.", "keys": []}

    async def check(self: OpenAI, target: Any) -> str:
        said["keys"].append(target.api_key)
        if isinstance(said["answer"], Exception):
            raise said["answer"]
        return str(said["answer"])

    monkeypatch.setattr(OpenAI, "check", check)
    return said


@pytest.fixture
def account(boss: Reader) -> ProviderAccount:
    boss.send(NEW, TYPED)
    return ProviderAccount.objects.get(pk="openrouter")


def test_an_account_is_tried_and_saved_and_its_key_is_not_shown(
    boss: Reader, account: ProviderAccount, asked: dict[str, Any]
) -> None:
    assert asked["keys"] == [KEY]
    html = boss.page(PAGE)
    assert "data-state-word>works" in html
    assert ">key set<" in html
    form = boss.page(f"{FORM}?name=openrouter")
    assert 'value="https://openrouter.ai/api/v1"' in form
    assert "set; empty keeps it" in form
    for page in (html, form):
        assert KEY not in page
        assert KEY[-4:] not in page


def test_test_asks_the_provider_and_saves_nothing(boss: Reader, asked: dict[str, Any]) -> None:
    html = boss.send(NEW, {**TYPED, "do": "try"}, 200)
    assert "The key works." in html
    assert KEY not in html
    assert asked["keys"] == [KEY]
    assert not ProviderAccount.objects.exists()


def test_a_change_is_tried_with_the_stored_key_and_only_what_changed_is_sent(
    boss: Reader, account: ProviderAccount, asked: dict[str, Any]
) -> None:
    ProviderAccount.objects.update(references={"apiKey": "${OPENROUTER_API_KEY}"})
    change = {
        "settings.baseUrl": "https://openrouter.ai/api/v1",
        "settings.apiKey": "",
        "settings.maxTokensField": "max_tokens",
    }
    boss.send(f"{FORM}?name=openrouter", {**change, "do": "try"}, 200)
    account.refresh_from_db()
    assert "maxTokensField" not in account.settings
    boss.send(f"{FORM}?name=openrouter", change)
    account.refresh_from_db()
    assert account.settings["maxTokensField"] == "max_tokens"
    assert asked["keys"] == [KEY] * 3
    assert account.references == {"apiKey": "${OPENROUTER_API_KEY}"}
    assert "${OPENROUTER_API_KEY}" in boss.page(f"{FORM}?name=openrouter")


@pytest.mark.parametrize("do", ["save", "try"])
def test_refused_credentials_are_told_and_not_saved(
    boss: Reader, asked: dict[str, Any], do: str
) -> None:
    asked["answer"] = ProviderRefused("The key is wrong.")
    html = boss.send(NEW, {**TYPED, "do": do}, 422)
    assert "The key is wrong." in html
    assert 'value="https://openrouter.ai/api/v1"' in html, "what was typed stays"
    assert KEY not in html
    assert not ProviderAccount.objects.exists()


def test_an_account_can_be_saved_untried_where_the_provider_cannot_be_asked(
    boss: Reader, asked: dict[str, Any]
) -> None:
    asked["answer"] = Unavailable("It is away.")
    assert "It is away." in boss.send(NEW, TYPED, 503)
    boss.send(NEW, {**TYPED, "untried": "1"})
    assert ProviderAccount.objects.get().check_good is None
    assert "data-state-word>not tried" in boss.page(PAGE)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"settings.baseUrl": "ftp://x"}, "settings.baseUrl", "baseUrl:"),
        ({"name": "vllm"}, "name", "what models call a local backend"),
        ({"name": "No Way"}, "name", "pattern"),
    ],
)
def test_a_wrong_setting_is_told_at_its_field(
    boss: Reader, change: dict[str, str], field: str, words: str
) -> None:
    html = boss.send(NEW, {**TYPED, **change}, 422)
    at = html.split(f'data-field="{field}"')[1].split("data-field=")[0]
    assert words in at
    assert 'aria-invalid="true"' in at


def test_a_new_address_needs_the_key_again(boss: Reader, account: ProviderAccount) -> None:
    html = boss.send(
        f"{FORM}?name=openrouter", {"settings.baseUrl": "https://evil.example/v1"}, 422
    )
    assert "is another address" in html
    account.refresh_from_db()
    assert account.settings["baseUrl"] == "https://openrouter.ai/api/v1"


def test_the_stored_key_is_tried_on_demand(
    boss: Reader, account: ProviderAccount, asked: dict[str, Any]
) -> None:
    asked["answer"] = ProviderRefused("Revoked.")
    boss.send(f"{PAGE}check/", {"name": "openrouter"})
    html = boss.page(PAGE)
    assert "data-state-word>refused" in html
    assert "Revoked." in html


def test_an_account_says_which_roles_need_it_and_is_not_removed_under_them(
    boss: Reader, account: ProviderAccount
) -> None:
    entry = ModelEntry.objects.create(id="cloud.persona", provider="openrouter", model="m")
    RoleLink.objects.create(role=Role.objects.create(name="persona"), entry=entry, position=0)
    assert "roles: persona" in boss.page(PAGE)
    boss.send(f"{PAGE}delete/", {"name": "openrouter", "confirmed": "1"})
    assert "is named by the models cloud.persona" in boss.page(PAGE)
    entry.delete()
    assert "Remove it" in boss.send(f"{PAGE}delete/", {"name": "openrouter"}, 200)
    assert ProviderAccount.objects.exists()
    boss.send(f"{PAGE}delete/", {"name": "openrouter", "confirmed": "1"})
    assert not ProviderAccount.objects.exists()


def test_the_page_says_where_local_models_run(boss: Reader, account: ProviderAccount) -> None:
    assert 'data-deployment="local"' in boss.page(PAGE)
    from backends.models import Switchboard

    Switchboard.objects.update_or_create(pk=1, defaults={"deployment_mode": "server"})
    Deployment.objects.update_or_create(pk=1, defaults={"server_account": "openrouter"})
    html = boss.page(PAGE)
    assert 'data-deployment="server"' in html
    assert 'answered by <span class="mh-strong">openrouter</span>' in html


def test_an_account_that_is_not_there_is_404_and_a_kind_that_is_not_there_another(
    boss: Reader,
) -> None:
    boss.page(f"{FORM}?name=nobody", 404)
    assert "Add an account" in boss.page(f"{FORM}?kind=nobody")
    assert "nobody" in boss.send(f"{FORM}?kind=nobody", {"kind": "nobody", "name": "x"}, 422)


@pytest.mark.parametrize("path", ["", "account/", "check/", "delete/"])
def test_providers_are_for_owners(stan: Reader, standard: User, path: str) -> None:
    stan.page(PAGE + path, 403)
    stan.send(PAGE + path, {"name": "openrouter", "confirmed": "1"}, 403)
