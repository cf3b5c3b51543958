"""``etc/deployment.json``: read, with what it takes from the environment, and written again."""

import json
from typing import Any

import pytest

from accounts.actors import Actor
from accounts.errors import Invalid, InvalidRequest, NotAllowed
from accounts.masking import MASK
from accounts.models import User
from audit.models import Event
from backends import secrets
from backends.models import Switchboard
from mhsite.config_schema import schemas
from mhsite.home import REPOSITORY
from router.models import ProviderAccount
from router.registry_files import deployment_export
from router.registry_reads import deployment, provider_account
from router.services import deployment_import

pytestmark = pytest.mark.django_db
KEY = "sk-never-to-be-seen-1234567890"
ROUTER = {
    "kind": "openai",
    "baseUrl": "https://openrouter.ai/api/v1",
    "apiKey": "${OPENROUTER_KEY}",
}


def _file(**more: Any) -> dict[str, Any]:
    return {
        "mode": "server",
        "server": {"provider": "router"},
        "providers": {"router": ROUTER},
    } | more


def _import(data: Any, **environment: str) -> None:
    deployment_import(actor=Actor.system(), data=data, environment=environment)


def test_a_file_sets_the_mode_the_account_and_its_key_from_the_environment() -> None:
    _import(_file(), OPENROUTER_KEY=KEY)
    assert (deployment().mode, deployment().server_account) == ("server", "router")
    assert Switchboard.objects.get().deployment_mode == "server"
    account = provider_account("router")
    assert account is not None
    assert account.ready
    row = ProviderAccount.objects.get()
    assert secrets.unseal(row.secrets) == {"apiKey": KEY}
    assert KEY not in str(Event.objects.values_list("before", "after"))


def test_an_export_has_the_reference_and_never_the_key() -> None:
    _import(_file(), OPENROUTER_KEY=KEY)
    exported = deployment_export()
    assert exported == {"version": "1.0.0", **_file()}
    assert KEY not in json.dumps(exported)


def test_a_key_that_was_written_out_is_masked_and_a_masked_one_stays() -> None:
    written = {"router": {**ROUTER, "apiKey": KEY}}
    _import(_file(providers=written))
    exported = deployment_export()
    assert exported["providers"]["router"]["apiKey"] == MASK
    _import(exported)
    assert secrets.unseal(ProviderAccount.objects.get().secrets) == {"apiKey": KEY}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (_file(), "providers.router.apiKey reads the environment variable OPENROUTER_KEY"),
        ({"mode": "cloud"}, "mode"),
        ({"mode": "server"}, "server.provider"),
        ({"mode": "local", "colour": "red"}, "colour"),
        ({"mode": "server", "server": {"provider": "nobody"}}, "'nobody'"),
        (
            {"mode": "local", "providers": {"x": {"kind": "openai", "colour": 1}}},
            "providers.x: colour",
        ),
        (
            {"mode": "local", "providers": {"x": {"kind": "ghost"}}},
            "providers.x: There is no provider",
        ),
        ({"mode": "local", "providers": {"vllm": {"kind": "openai"}}}, "local backend"),
        (
            {"mode": "local", "providers": {"x": {"kind": "openai", "apiKey": MASK}}},
            "none is stored",
        ),
    ],
)
def test_a_bad_file_changes_nothing_and_says_what_to_do(data: dict[str, Any], said: str) -> None:
    with pytest.raises((Invalid, InvalidRequest)) as refused:
        _import(data)
    assert said in refused.value.message
    assert not ProviderAccount.objects.exists()
    assert deployment().mode == "local"


def test_accounts_the_file_does_not_speak_of_stay() -> None:
    ProviderAccount.objects.create(name="openai", kind="openai")
    _import({"mode": "local"})
    assert ProviderAccount.objects.filter(name="openai").exists()


def test_a_key_that_changes_has_not_been_tried() -> None:
    _import(_file(), OPENROUTER_KEY=KEY)
    ProviderAccount.objects.update(check_good=True, check_message="The key works.")
    _import(_file(), OPENROUTER_KEY=KEY)
    assert ProviderAccount.objects.get().check_good is True
    _import(_file(), OPENROUTER_KEY=f"{KEY}-new")
    assert ProviderAccount.objects.get().check_good is None


def test_a_standard_user_may_not_import(standard: User) -> None:
    with pytest.raises(NotAllowed):
        deployment_import(actor=Actor(user=standard, surface="rest"), data={"mode": "local"})


@pytest.mark.parametrize("name", ["models.json", "deployment.json"])
def test_the_shipped_schema_is_the_models_own(name: str) -> None:
    kept = json.loads((REPOSITORY / "etc" / "schemas" / name).read_text())
    assert kept == schemas()[name], "run: manage.py write_schemas"
