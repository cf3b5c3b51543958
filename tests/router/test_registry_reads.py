from typing import Any

import pytest

from accounts.models import User
from backends import secrets
from backends.models import Switchboard
from router import registry_reads, selectors
from router.models import (
    Deployment,
    ModelEntry,
    ProviderAccount,
    Role,
    RoleLink,
    UserModelEntry,
    UserRole,
)
from router.registry_reads import provider_account, registry, registry_part
from router.resolution import Registry
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db
ROLE = "persona"


@pytest.fixture(autouse=True)
def site_registry(db: None) -> None:
    """Two models, and a role that tries one after the other."""
    ModelEntry.objects.create(id="one", provider="active", options={"temperature": 0})
    ModelEntry.objects.create(
        id="two", provider="vllm", model="m", when_off="wait", capabilities=["tools"]
    )
    role = Role.objects.create(name=ROLE, options={"max_tokens": 5}, context="trim")
    for position, entry in enumerate(("one", "two")):
        RoleLink.objects.create(role=role, entry_id=entry, position=position)


def _own_role(user: User, chain: list[str], **values: Any) -> UserRole:
    return UserRole.objects.create(user=user, name=ROLE, chain=chain, **values)


def test_an_entry_says_what_to_do_when_off_and_what_it_can() -> None:
    entry = registry().entries["two"]
    assert (entry.when_off, entry.capabilities) == ("wait", frozenset({"tools"}))


def test_a_role_has_options_and_a_context_policy_of_its_own() -> None:
    whole = registry()
    assert whole.role_options == {ROLE: {"max_tokens": 5}}
    assert whole.role_context == {ROLE: "trim"}
    assert whole.roles["coder"] == []


@fault(30)
def test_what_a_model_is_loaded_with_is_read_over_in_a_users_own(standard: User) -> None:
    options = {"num_ctx": 4096, "keep_alive": "0", "seed": 1}
    for entry_id in ("one", "three"):
        UserModelEntry.objects.create(
            user=standard, entry_id=entry_id, provider="active", options=options
        )
    _own_role(standard, ["one", "three"], options=options)
    ModelEntry.objects.filter(pk="two").update(options=options)
    for found in (
        registry(standard),
        registry_part(role=ROLE, user=standard),
        registry_part(model="one", user=standard),
        registry_part(model="three", user=standard),
    ):
        assert found.entries
        assert all(e.options == {"seed": 1} for i, e in found.entries.items() if i != "two")
        assert found.role_options.get(ROLE, {"seed": 1}) == {"seed": 1}
    # The site's say it as they please.
    assert registry(standard).entries["two"].options == options


def test_a_users_role_wins_for_them_and_for_nobody_else(standard: User, owner: User) -> None:
    _own_role(standard, ["two"])
    assert registry(standard).roles[ROLE] == ["two"]
    assert registry(standard).role_context == {}
    assert registry(owner).roles[ROLE] == ["one", "two"]
    assert registry().roles[ROLE] == ["one", "two"]


def test_a_users_model_wins_in_the_sites_roles_too(standard: User) -> None:
    UserModelEntry.objects.create(user=standard, entry_id="one", provider="vllm", model="mine")
    assert registry(standard).entries["one"].model == "mine"
    assert registry_part(role=ROLE, user=standard).entries["one"].model == "mine"
    assert registry_part(model="one", user=standard).entries["one"].model == "mine"
    assert registry_part(model="one").entries["one"].model == ""


def test_models_of_a_users_chain_that_are_gone_are_passed_over(standard: User) -> None:
    own = _own_role(standard, ["gone", "two"])
    assert registry(standard).roles[ROLE] == ["two"]
    own.chain = ["gone"]
    own.save()
    assert registry(standard).roles[ROLE] == ["one", "two"]
    assert registry_part(role=ROLE, user=standard).roles[ROLE] == ["one", "two"]


@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("name", [ROLE, "coder", "mine"])
def test_what_a_chat_reads_of_a_role_is_what_the_whole_registry_says(
    standard: User, name: str, *, with_own: bool
) -> None:
    if with_own:
        UserModelEntry.objects.create(user=standard, entry_id="own", provider="active")
        for role in (ROLE, "coder", "mine"):
            UserRole.objects.create(
                user=standard, name=role, chain=["own", "one"], options={"seed": 0}
            )
    whole, part = registry(standard), registry_part(role=name, user=standard)
    assert part.roles.get(name) == whole.roles.get(name)
    assert part.role_options.get(name) == whole.role_options.get(name)
    assert part.role_context.get(name) == whole.role_context.get(name)
    for entry in part.roles.get(name, ()):
        assert part.entries[entry] == whole.entries[entry]


@pytest.mark.parametrize("asked", [{"role": ROLE}, {"model": "one"}, {"model": f"role:{ROLE}"}])
def test_a_chat_of_somebody_without_own_things_reads_the_registry_with_one_query(
    standard: User, asked: dict[str, str], django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        part = registry_part(**asked, user=standard)
    assert "one" in part.entries


def test_the_active_backend_needs_no_registry(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert registry_part() == Registry()


def test_the_names_one_may_ask_for_hold_ones_own(standard: User, owner: User) -> None:
    UserModelEntry.objects.create(user=standard, entry_id="mine", provider="active")
    assert "mine" in {card["id"] for card in selectors.model_cards(standard)}
    assert "mine" not in {card["id"] for card in selectors.model_cards(owner)}


def test_a_users_model_of_an_account_counts_while_the_site_offers_it(standard: User) -> None:
    ProviderAccount.objects.create(name="openai", kind="openai")
    UserModelEntry.objects.create(user=standard, entry_id="mine", provider="openai", model="gpt")
    assert "mine" not in registry(standard).entries
    assert not registry_part(model="mine", user=standard).entries
    ModelEntry.objects.create(id="offered", provider="openai", model="gpt")
    assert "mine" in registry(standard).entries
    assert "mine" in registry_part(model="mine", user=standard).entries


# -- accounts


def _account(**values: Any) -> ProviderAccount:
    defaults = {"kind": "openai", "settings": {"baseUrl": "https://openrouter.ai/api/v1"}}
    return ProviderAccount.objects.create(name="openrouter", **{**defaults, **values})


def test_an_account_has_its_settings_with_the_secrets() -> None:
    _account(secrets=secrets.seal({"apiKey": "sk-hidden"}))
    account = provider_account("openrouter")
    assert account is not None
    assert account.ready
    assert account.settings is not None
    assert account.settings.model_dump()["base_url"] == "https://openrouter.ai/api/v1"
    assert "sk-hidden" not in repr(account)
    assert account.settings.api_key.get_secret_value() == "sk-hidden"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"kind": "gone"}, "There is no provider 'gone'"),
        ({"kind": "vllm"}, "needs no account"),
        ({"settings": {"baseUrl": "ftp://x"}}, "baseUrl: give a URL"),
        ({"settings": {"colour": "red"}}, "colour: no such setting of openai"),
        ({"secrets": "sealed-with-another-key"}, "MH_SECRET_KEY"),
    ],
)
def test_an_account_that_cannot_be_used_says_why(values: dict[str, Any], why: str) -> None:
    _account(**values)
    account = provider_account("openrouter")
    assert account is not None
    assert not account.ready
    assert why in account.why_not


def test_there_may_be_no_such_account() -> None:
    assert provider_account("nobody") is None


def test_where_models_run_is_one_query(django_assert_num_queries: Any) -> None:
    assert registry_reads.deployment().mode == "local"
    Switchboard.objects.update_or_create(pk=1, defaults={"deployment_mode": "server"})
    Deployment.objects.create(server_account="runpod")
    with django_assert_num_queries(1):
        found = registry_reads.deployment()
    assert (found.mode, found.server_account) == ("server", "runpod")
