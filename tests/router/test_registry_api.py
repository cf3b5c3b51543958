"""Models, roles and provider accounts over REST: what owners and standard users may, and what they hear."""

import json
from typing import Any

import pytest
from django.test import Client

from accounts.errors import NotAllowed, Unavailable
from accounts.models import User
from audit.models import Event
from backends import secrets
from router.errors import ProviderRefused
from router.models import Deployment, ModelEntry, ProviderAccount, Role, UserModelEntry, UserRole
from router.providers.openai import OpenAI
from router.registry_reads import registry
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db
KEY = "sk-never-to-be-seen-1234567890"
ACCOUNT = {
    "name": "openrouter",
    "kind": "openai",
    "settings": {"baseUrl": "https://openrouter.ai/api/v1", "apiKey": KEY},
}


class Api:
    """REST as somebody."""

    def __init__(self, user: User) -> None:
        self._client = Client()
        self._client.force_login(user)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        more = {"data": json.dumps(body), "content_type": "application/json"}
        answer = getattr(self._client, method.lower())(path, **(more if body is not None else {}))
        assert KEY not in answer.content.decode()
        return answer.status_code, json.loads(answer.content) if answer.content else None


@pytest.fixture
def boss(owner: User) -> Api:
    return Api(owner)


@pytest.fixture
def stan(standard: User) -> Api:
    return Api(standard)


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


# -- models


def test_a_model_is_added_changed_and_deleted(boss: Api) -> None:
    body = {"id": "team/night", "provider": "active", "options": {"temperature": 0}}
    status, made = boss.ask("POST", "/api/models", body)
    assert (status, made["scope"], made["options"]) == (201, "site", {"temperature": 0})
    assert boss.ask("POST", "/api/models", body)[1]["error"]["code"] == "already_exists"
    change = {"whenOff": "wait", "description": "At night.", "options": None}
    status, changed = boss.ask("PATCH", "/api/models/team/night", change)
    assert (status, changed["when_off"], changed["options"]) == (200, "wait", {})
    assert boss.ask("GET", "/api/models/team/night")[1]["description"] == "At night."
    assert boss.ask("DELETE", "/api/models/team/night") == (204, None)
    assert boss.ask("GET", "/api/models/team/night")[0] == 404
    events = Event.objects.filter(target_id="team/night").values_list("event", flat=True)
    assert set(events) == {f"registry.model_{what}" for what in ("created", "changed", "deleted")}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"provider": "active"}, 400, "id"),
        ({"id": "a", "provider": "active", "colour": "red"}, 400, "colour"),
        ({"id": "a", "provider": "nobody"}, 422, "provider"),
        (
            {"id": "a", "provider": "active", "options": {"temperature": 9}},
            422,
            "options.temperature",
        ),
        ({"id": "-a", "provider": "active"}, 422, "id"),
        ([], 400, None),
    ],
)
def test_a_bad_model_is_refused_with_the_field_at_fault(
    boss: Api, body: Any, status: int, param: str | None
) -> None:
    answered, said = boss.ask("POST", "/api/models", body)
    assert (answered, said["error"]["param"]) == (status, param)


def test_deleting_a_model_that_roles_use_names_them(boss: Api) -> None:
    boss.ask("POST", "/api/models", {"id": "a", "provider": "active"})
    for role in ("persona", "coder"):
        boss.ask("PUT", f"/api/roles/{role}", {"chain": ["a"]})
    status, said = boss.ask("DELETE", "/api/models/a")
    assert (status, said["error"]["code"]) == (409, "model_in_use")
    assert "coder, persona" in said["error"]["message"]


def test_models_are_listed_by_page_provider_state_and_part_of_a_name(boss: Api) -> None:
    for number in range(3):
        ModelEntry.objects.create(id=f"m{number}", provider="active")
    ModelEntry.objects.create(id="cloud", provider="openai", model="gpt-9")
    status, page = boss.ask("GET", "/api/models?limit=2&offset=1")
    assert (status, page["total"], [row["id"] for row in page["results"]]) == (200, 4, ["m0", "m1"])
    only = boss.ask("GET", "/api/models?provider=openai")[1]["results"]
    assert [row["availability"]["state"] for row in only] == ["needs credentials"]
    assert boss.ask("GET", "/api/models?state=needs%20credentials")[1]["total"] == 1
    assert boss.ask("GET", "/api/models?search=GPT")[1]["total"] == 1
    assert boss.ask("GET", "/api/models?limit=-1")[0] == 422
    assert boss.ask("GET", "/api/models?scope=theirs")[1]["error"]["param"] == "scope"


# -- a user's own


def test_what_a_standard_user_sets_is_theirs_alone(boss: Api, stan: Api, standard: User) -> None:
    boss.ask("POST", "/api/models", {"id": "a", "provider": "active"})
    boss.ask("PUT", "/api/roles/persona", {"chain": ["a"]})
    assert stan.ask("POST", "/api/models", {"id": "b", "provider": "active"})[1]["scope"] == "mine"
    status, role = stan.ask("PUT", "/api/roles/persona", {"chain": ["b", "a"], "context": "trim"})
    assert (status, role["scope"], role["chain"]) == (200, "mine", ["b", "a"])
    assert boss.ask("GET", "/api/roles/persona")[1]["chain"] == ["a"]
    assert stan.ask("GET", "/api/roles/persona?scope=site")[1]["chain"] == ["a"]
    assert [row["id"] for row in stan.ask("GET", "/api/models?scope=mine")[1]["results"]] == ["b"]
    assert boss.ask("GET", "/api/models/b")[0] == 404
    assert registry(standard).roles["persona"] == ["b", "a"]
    assert stan.ask("DELETE", "/api/models/b")[1]["error"]["code"] == "model_in_use"
    assert stan.ask("DELETE", "/api/roles/persona")[0] == 204
    assert stan.ask("GET", "/api/roles/persona")[1]["scope"] == "site"
    assert stan.ask("DELETE", "/api/roles/persona")[0] == 404


def test_a_standard_user_changes_nothing_of_the_sites(boss: Api, stan: Api) -> None:
    boss.ask("POST", "/api/models", {"id": "a", "provider": "active"})
    assert stan.ask("PATCH", "/api/models/a?scope=site", {"description": "x"})[0] == 403
    assert stan.ask("PUT", "/api/roles/persona?scope=site", {"chain": []})[0] == 403
    assert stan.ask("PATCH", "/api/models/a", {"description": "x"})[0] == 404
    assert stan.ask("POST", "/api/providers", ACCOUNT)[0] == 403
    assert not Role.objects.exists()


def test_an_owner_can_have_something_of_their_own(boss: Api, owner: User) -> None:
    boss.ask("POST", "/api/models?scope=mine", {"id": "a", "provider": "active"})
    assert UserModelEntry.objects.filter(user=owner, entry_id="a").exists()
    assert not ModelEntry.objects.exists()


def test_a_users_model_may_not_spend_what_the_site_does_not_offer(boss: Api, stan: Api) -> None:
    boss.ask("POST", "/api/providers", ACCOUNT)
    dear = {"id": "dear", "provider": "openrouter", "model": "the-dearest"}
    status, said = stan.ask("POST", "/api/models", dear)
    assert (status, said["error"]["code"]) == (422, "model_not_offered")
    boss.ask("POST", "/api/models", {**dear, "id": "offered"})
    assert stan.ask("POST", "/api/models", dear)[0] == 201


PINNED = [({"numCtx": 4096}, "options.numCtx"), ({"keepAlive": "0"}, "options.keepAlive")]


@fault(30)
@pytest.mark.parametrize(("options", "param"), PINNED)
def test_what_a_model_is_loaded_with_is_not_a_users_to_say(
    boss: Api, stan: Api, options: dict[str, Any], param: str
) -> None:
    model = {"provider": "active", "options": {"temperature": 0, **options}}
    stan.ask("POST", "/api/models", {"id": "own", "provider": "active"})
    for method, path, body in (
        ("POST", "/api/models", {"id": "a", **model}),
        ("PATCH", "/api/models/own", {"options": options}),
        ("PUT", "/api/roles/persona", {"chain": ["own"], "options": options}),
    ):
        status, said = stan.ask(method, path, body)
        error = said["error"]
        assert (status, error["code"], error["param"]) == (403, "option_not_allowed", param)
        assert "ask an owner" in error["message"]
    assert Event.objects.filter(event="permission.refused").count() == 3
    # Neither of an owner's, where it is for them alone.
    assert boss.ask("POST", "/api/models?scope=mine", {"id": "a", **model})[0] == 403
    assert boss.ask("POST", "/api/models", {"id": "a", **model})[0] == 201


@fault(30)
def test_a_users_model_that_says_what_it_is_loaded_with_from_before_can_be_changed(
    stan: Api, standard: User
) -> None:
    options = {"num_ctx": 4096, "seed": 1}
    row = UserModelEntry.objects.create(
        user=standard, entry_id="own", provider="active", options=options
    )
    assert stan.ask("GET", "/api/models/own")[1]["options"] == {"seed": 1}
    assert stan.ask("PATCH", "/api/models/own", {"description": "Mine."})[0] == 200
    row.refresh_from_db()
    assert row.options == {"seed": 1}


def test_a_user_has_a_limited_number_of_models(stan: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.services.entries.OWN_MAX", 1)
    assert stan.ask("POST", "/api/models", {"id": "a", "provider": "active"})[0] == 201
    assert stan.ask("POST", "/api/models", {"id": "b", "provider": "active"})[0] == 409


# -- roles


def test_a_role_is_set_with_options_and_a_policy_and_unset(boss: Api) -> None:
    boss.ask("POST", "/api/models", {"id": "a", "provider": "active"})
    body = {"chain": ["a"], "options": {"seed": 0, "topP": 0.5}, "context": "trim"}
    status, role = boss.ask("PUT", "/api/roles/poet", body)
    assert (status, role["options"], role["shipped"]) == (200, {"seed": 0, "top_p": 0.5}, False)
    assert registry().role_options["poet"] == {"seed": 0, "top_p": 0.5}
    assert "poet" in {row["name"] for row in boss.ask("GET", "/api/roles")[1]["results"]}
    assert boss.ask("DELETE", "/api/roles/poet")[0] == 204
    assert boss.ask("GET", "/api/roles/poet")[1]["error"]["code"] == "role_not_found"


@pytest.mark.parametrize(
    ("name", "chain", "param"),
    [("persona", ["ghost"], "chain[0]"), ("Persona", [], "name"), ("persona", ["a", "a"], None)],
)
def test_a_bad_role_is_refused(boss: Api, name: str, chain: list[str], param: str | None) -> None:
    boss.ask("POST", "/api/models", {"id": "a", "provider": "active"})
    status, said = boss.ask("PUT", f"/api/roles/{name}", {"chain": chain})
    assert (status, said["error"]["param"]) == (422, param)
    assert not UserRole.objects.exists()
    assert not Role.objects.exists()


# -- accounts


def test_credentials_are_tried_before_they_are_saved_and_never_shown(
    boss: Api, stan: Api, asked: dict[str, Any]
) -> None:
    status, made = boss.ask("POST", "/api/providers", ACCOUNT)
    assert status == 201
    assert asked["keys"] == [KEY]
    assert made["secrets"] == {"apiKey": True}
    assert made["check"]["good"] is True
    row = ProviderAccount.objects.get()
    assert KEY not in f"{row.settings} {row.secrets}"
    assert secrets.unseal(row.secrets) == {"apiKey": KEY}
    listed = stan.ask("GET", "/api/providers")[1]["results"][0]
    assert "settings" not in listed
    assert KEY not in str(list(Event.objects.values_list("before", "after", "message")))
    assert Event.objects.filter(event="provider.created").exists()


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (NotAllowed("The key is wrong."), 422, "credentials_refused"),
        (ProviderRefused("The key is wrong."), 422, "credentials_refused"),
        (Unavailable("Nobody answers."), 503, "credentials_untried"),
        (RuntimeError("a bug"), 503, "credentials_untried"),
    ],
)
def test_credentials_that_do_not_work_are_not_saved(
    boss: Api, asked: dict[str, Any], answer: Exception, status: int, code: str
) -> None:
    asked["answer"] = answer
    found, said = boss.ask("POST", "/api/providers", ACCOUNT)
    assert (found, said["error"]["code"]) == (status, code)
    assert not ProviderAccount.objects.exists()


def test_an_owner_can_save_without_a_check_and_is_told(boss: Api, asked: dict[str, Any]) -> None:
    asked["answer"] = Unavailable("Nobody answers.")
    status, made = boss.ask("POST", "/api/providers", {**ACCOUNT, "check": False})
    assert (status, made["check"]["good"]) == (201, None)
    assert "without a check" in made["check"]["message"]
    status, tried = boss.ask("POST", "/api/providers/openrouter/check")
    assert (status, tried["check"]["good"]) == (200, False)
    assert "Nobody answers." in tried["check"]["message"]


def test_credentials_can_be_tried_without_being_saved(boss: Api, asked: dict[str, Any]) -> None:
    status, tried = boss.ask("POST", "/api/providers", {**ACCOUNT, "save": False})
    assert (status, tried["check"]["message"]) == (200, "The key works.")
    assert not ProviderAccount.objects.exists()
    boss.ask("POST", "/api/providers", ACCOUNT)
    before = ProviderAccount.objects.get()
    change = {"settings": {"maxTokensField": "max_tokens"}, "save": False}
    status, tried = boss.ask("PATCH", "/api/providers/openrouter", change)
    assert (status, tried["settings"]["maxTokensField"]) == (200, "max_tokens")
    after = ProviderAccount.objects.get()
    assert (after.settings, after.updated_at) == (before.settings, before.updated_at)
    assert asked["keys"] == [KEY] * 3


def test_what_cannot_be_tried_is_not_called_good(boss: Api, asked: dict[str, Any]) -> None:
    asked["answer"] = ""
    status, made = boss.ask("POST", "/api/providers", ACCOUNT)
    assert (status, made["check"]["good"]) == (201, None)
    assert "Not tried" in boss.ask("POST", "/api/providers/openrouter/check")[1]["check"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"kind": "nothing"}, "provider"),
        ({"name": "vllm", "kind": "openai"}, "name"),
        ({"name": "active", "kind": "openai"}, "name"),
        ({"kind": "vllm"}, "kind"),
        ({"settings": {"baseUrl": 3}}, "settings.baseUrl"),
        ({"settings": {"colour": "red"}}, "settings.colour"),
    ],
)
def test_a_bad_account_is_refused(boss: Api, change: dict[str, Any], param: str) -> None:
    status, said = boss.ask("POST", "/api/providers", {**ACCOUNT, **change})
    assert (status, said["error"]["param"]) == (422, param)


def test_a_change_keeps_the_secret_that_is_not_sent(boss: Api, asked: dict[str, Any]) -> None:
    boss.ask("POST", "/api/providers", ACCOUNT)
    status, _ = boss.ask("PATCH", "/api/providers/openrouter", {"settings": {}})
    assert (status, asked["keys"]) == (200, [KEY, KEY])
    status, changed = boss.ask("PATCH", "/api/providers/openrouter", {"settings": {"apiKey": None}})
    assert (status, changed["secrets"]) == (200, {"apiKey": False})


def test_a_stored_secret_is_not_sent_to_a_new_address(boss: Api, asked: dict[str, Any]) -> None:
    boss.ask("POST", "/api/providers", ACCOUNT)
    for name, url in (("baseUrl", "https://evil.example/v1"), ("base_url", "https://evil.example/v1"), ("baseUrl", None)):  # fmt: skip
        elsewhere = {"settings": {name: url}}
        status, said = boss.ask("PATCH", "/api/providers/openrouter", elsewhere)
        assert (status, said["error"]["code"]) == (422, "secret_needed")
    assert asked["keys"] == [KEY]


def test_an_account_that_models_name_is_not_deleted(boss: Api) -> None:
    boss.ask("POST", "/api/providers", ACCOUNT)
    boss.ask("POST", "/api/models", {"id": "a", "provider": "openrouter", "model": "m"})
    status, said = boss.ask("DELETE", "/api/providers/openrouter")
    assert (status, said["error"]["code"]) == (409, "provider_in_use")
    assert "a" in said["error"]["message"]
    boss.ask("DELETE", "/api/models/a")
    Deployment.objects.create(server_account="openrouter")
    assert boss.ask("DELETE", "/api/providers/openrouter")[0] == 409
    Deployment.objects.all().delete()
    assert boss.ask("DELETE", "/api/providers/openrouter")[0] == 204


def test_secrets_sealed_with_another_key_are_a_sentence_and_can_be_given_again(boss: Api) -> None:
    ProviderAccount.objects.create(name="openrouter", kind="openai", settings={}, secrets="foreign")
    status, found = boss.ask("GET", "/api/providers/openrouter")
    assert (status, found["ready"]) == (200, False)
    assert "MH_SECRET_KEY" in found["why_not"]
    assert boss.ask("PATCH", "/api/providers/openrouter", {"settings": {}})[0] == 422
    again = {"settings": {"apiKey": KEY}}
    assert boss.ask("PATCH", "/api/providers/openrouter", again)[1]["ready"] is True


# -- what clients send


@pytest.mark.parametrize("text", ["\0", "\ud800"])
def test_text_that_no_database_takes_is_refused(boss: Api, text: str) -> None:
    body = {"id": "a", "provider": "active", "description": text}
    assert boss.ask("POST", "/api/models", body)[0] == 422
    account = {**ACCOUNT, "settings": {"apiKey": text}}
    assert boss.ask("POST", "/api/providers", account)[0] == 422


@pytest.mark.parametrize("name", ["%00", "%ED%A0%80", "x" * 600, "..", "ä"])
def test_a_name_nothing_can_have_is_not_there(boss: Api, name: str) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        body: Any = {"settings": {}} if method == "PATCH" else None
        assert boss.ask(method, f"/api/providers/{name}", body)[0] == 404
        assert boss.ask(method, f"/api/models/{name}", {} if method == "PATCH" else None)[0] == 404
    assert boss.ask("DELETE", f"/api/roles/{name}")[0] == 404
    assert boss.ask("PUT", f"/api/roles/{name}", {"chain": []})[0] == 422
    assert boss.ask("POST", f"/api/providers/{name}/check")[0] == 404
