"""The Roles page: whose things it shows, and what its forms do without JavaScript."""

import json
import re
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from audit.models import Event, Outcome
from router.models import ModelEntry, Role, RoleLink, UserModelEntry, UserRole
from tests.backends.faults.table import fault
from tests.router.pages.conftest import Reader

pytestmark = pytest.mark.django_db
PAGE = "/admin/router/roles/"
SITE = f"{PAGE}?scope=site"
MINE = f"{PAGE}?scope=mine"


@pytest.fixture(autouse=True)
def models() -> None:
    for one in ("a", "b", "c"):
        ModelEntry.objects.create(id=one, provider="active")
    ModelEntry.objects.create(id="night", provider="ollama", model="qwen3:14b")
    role = Role.objects.create(name="persona")
    for place, one in enumerate(("a", "b")):
        RoleLink.objects.create(role=role, entry_id=one, position=place)


def chain_on(html: str, role: str) -> list[str]:
    card = html.split(f'data-role="{role}"')[1].split("</section>", maxsplit=1)[0]
    return re.findall(r'data-link="([^"]+)"', card)


def chain_of(name: str) -> list[str]:
    return list(RoleLink.objects.filter(role_id=name).values_list("entry_id", flat=True))


def role_form(**more: Any) -> dict[str, Any]:
    form = {
        "scope": "site",
        "name": "persona",
        "chain": ["a", "b"],
        "context": "error",
        "do": "save",
    }
    return {**form, **more}


def test_an_owner_sees_every_role_with_its_chain_and_why_one_cannot_answer(boss: Reader) -> None:
    html = boss.page(PAGE)
    assert chain_on(html, "persona") == ["a", "b"]
    assert chain_on(html, "coder") == []
    assert "No models: the active backend answers." in html
    assert "data-availability>not installed" in html
    assert "Import…" in html
    assert "Only mine" in html


def test_a_standard_user_sees_what_counts_for_them_and_changes_their_own_only(
    stan: Reader, standard: User
) -> None:
    UserRole.objects.create(user=standard, name="persona", chain=["c"])
    html = stan.page(SITE)
    assert chain_on(html, "persona") == ["c"]
    assert "Import…" not in html
    assert "Everybody's" not in html
    stan.send(f"{PAGE}change/", role_form(chain=["b", "c"]))
    assert chain_of("persona") == ["a", "b"], "the site's is as it was, whatever the form says"
    assert UserRole.objects.get(user=standard, name="persona").chain == ["b", "c"]


@fault(40)
def test_nobody_sees_or_reaches_the_roles_and_models_of_somebody_else(
    stan: Reader, boss: Reader, standard: User
) -> None:
    secret = UserModelEntry.objects.create(
        user=standard, entry_id="stans.model", provider="active", description="stans secret"
    )
    UserRole.objects.create(user=standard, name="diary", chain=["stans.model"])
    assert "stans secret" in stan.page(PAGE)
    eve = Reader(User.objects.create_user("eve", password="pw-eve-1234", role="standard"))
    for path in (PAGE, SITE, MINE):
        for reader in (eve, boss):
            html = reader.page(path)
            assert "stans" not in html
            assert "diary" not in html
    for reader in (eve, boss):
        reader.page(f"{PAGE}model/?id=stans.model&scope=mine", 404)
        reader.page(f"{PAGE}model/?from=stans.model", 404)
        form = {"id": "stans.model", "scope": "mine", "confirmed": "1"}
        reader.send(f"{PAGE}model/delete/", form)
    secret.refresh_from_db()


@pytest.mark.parametrize(
    ("do", "then"),
    [
        ("up:b", ["b", "a"]),
        ("down:a", ["b", "a"]),
        ("remove:a", ["b"]),
        ("add", ["a", "b", "c"]),
    ],
)
def test_the_buttons_of_a_chain_work_without_javascript(
    boss: Reader, do: str, then: list[str]
) -> None:
    back = boss.send(f"{PAGE}change/", role_form(do=do, add="c"))
    assert back == f"{SITE}#role-persona"
    assert chain_of("persona") == then
    assert "persona was saved." in boss.page(SITE)


def test_options_and_the_context_policy_are_saved_and_shown(boss: Reader) -> None:
    more = {"options.temperature": "0", "options.stop": "END\n", "context": "trim"}
    boss.send(f"{PAGE}change/", role_form(**more))
    row = Role.objects.get(pk="persona")
    assert (row.options, row.context) == ({"temperature": 0, "stop": ["END"]}, "trim")
    assert "temperature 0" in boss.page(PAGE)
    assert Event.objects.get(event="registry.role_set").actor_name == "olga"


def test_a_wrong_option_is_told_at_its_field_and_what_was_typed_stays(boss: Reader) -> None:
    html = boss.send(f"{PAGE}change/", role_form(**{"options.temperature": "9"}), 422)
    field = html.split('id="persona-options.temperature"')[1].split("</div>")[0]
    assert 'value="9"' in field
    assert "less than or equal to 2" in field
    assert Role.objects.get(pk="persona").options == {}


def test_a_chain_with_a_model_that_is_gone_is_refused_on_its_card(boss: Reader) -> None:
    html = boss.send(f"{PAGE}change/", role_form(chain=["a", "gone"]), 422)
    assert "There is no model &#x27;gone&#x27;" in html


def test_what_is_set_is_forgotten_only_after_a_question(boss: Reader) -> None:
    asked = boss.send(f"{PAGE}change/", role_form(do="unset"), 200)
    assert "then the active backend answers for it" in asked
    assert Role.objects.filter(pk="persona").exists()
    sent = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', asked))
    assert sent["confirmed"] == "1"
    assert sent["do"] == "unset"
    boss.send(f"{PAGE}change/", {**sent, "confirmed": "1"})
    assert not Role.objects.filter(pk="persona").exists()


def test_ones_own_goes_back_to_the_sites(stan: Reader, standard: User) -> None:
    stan.send(f"{PAGE}change/", role_form(chain=["c"]))
    assert "your own" in stan.page(PAGE)
    stan.send(f"{PAGE}change/", role_form(do="unset", confirmed="1"))
    assert not UserRole.objects.filter(user=standard).exists()
    assert chain_on(stan.page(PAGE), "persona") == ["a", "b"]


def test_an_owner_has_roles_of_their_own_beside_the_sites(boss: Reader, owner: User) -> None:
    boss.send(f"{PAGE}change/", role_form(scope="mine", chain=["c"]))
    assert UserRole.objects.get(user=owner).chain == ["c"]
    assert chain_on(boss.page(SITE), "persona") == ["a", "b"]
    assert "You have one of your own, which wins for you." in boss.page(SITE)
    assert chain_on(boss.page(MINE), "persona") == ["c"]


def test_a_role_is_added_and_a_bad_or_taken_name_is_told_at_its_field(boss: Reader) -> None:
    assert boss.send(f"{PAGE}add/", {"name": "poet"}) == f"{SITE}#role-poet"
    assert Role.objects.filter(pk="poet").exists()
    assert "There is a role persona already." in boss.send(f"{PAGE}add/", {"name": "persona"}, 422)
    assert "lower-case letters" in boss.send(f"{PAGE}add/", {"name": "No Way"}, 422)
    assert chain_of("persona") == ["a", "b"]


def test_guests_are_refused_and_it_is_recorded(client: Client, guest: User) -> None:
    client.force_login(guest)
    for answer in (client.get(PAGE), client.post(f"{PAGE}change/", role_form(chain=[]))):
        assert answer.status_code == 403
    assert chain_of("persona") == ["a", "b"]
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor=guest).count() == 2


# -- models


def test_a_model_is_added_with_its_options_changed_and_deleted(boss: Reader) -> None:
    form = {
        "id": "team/night",
        "provider": "ollama",
        "model": "qwen3:14b",
        "whenOff": "wait",
        "options.temperature": "0",
        "capabilities": ["tools", "completion"],
        "description": "At night.",
    }
    assert boss.send(f"{PAGE}model/", form) == f"{SITE}#models"
    row = ModelEntry.objects.get(pk="team/night")
    assert (row.when_off, row.options, row.capabilities) == (
        "wait",
        {"temperature": 0},
        ["completion", "tools"],
    )
    change = f"{PAGE}model/?id=team/night&scope=site"
    html = boss.page(change)
    assert 'value="At night."' in html
    assert 'name="id"' not in html
    boss.send(change, {**form, "description": "", "options.temperature": ""})
    row.refresh_from_db()
    assert (row.description, row.options) == ("", {})
    asked = boss.send(f"{PAGE}model/delete/", {"id": "team/night"}, 200)
    assert "its files stay where they are" in asked
    boss.send(f"{PAGE}model/delete/", {"id": "team/night", "confirmed": "1"})
    assert not ModelEntry.objects.filter(pk="team/night").exists()


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"id": "a"}, "id", "There is a model a already."),
        ({"id": "-x"}, "id", "pattern"),
        ({"provider": "nobody"}, "provider", "There is no provider"),
        ({"options.top_p": "7"}, "options.top_p", "less than or equal to 1"),
        ({"options.seed": "many"}, "options.seed", "valid integer"),
    ],
)
def test_a_bad_model_is_told_at_the_field(
    boss: Reader, change: dict[str, str], field: str, words: str
) -> None:
    html = boss.send(f"{PAGE}model/", {"id": "new", "provider": "active", **change}, 422)
    at = html.split(f'data-field="{field}"')[1].split("data-field=")[0]
    assert words in at
    assert 'aria-invalid="true"' in at
    assert not ModelEntry.objects.filter(pk="new").exists()


def test_a_user_may_copy_a_model_of_the_site_but_name_nothing_it_does_not_offer(
    stan: Reader, standard: User
) -> None:
    html = stan.page(f"{PAGE}model/?from=night")
    assert 'value="qwen3:14b"' in html
    assert "num_ctx" not in html
    form = {"id": "night", "provider": "ollama", "model": "qwen3:14b", "options.temperature": "1"}
    stan.send(f"{PAGE}model/", form)
    assert UserModelEntry.objects.get(user=standard).options == {"temperature": 1}
    assert ModelEntry.objects.get(pk="night").options == {}
    html = stan.send(f"{PAGE}model/", {"id": "x", "provider": "openai", "model": "gpt"}, 422)
    assert "The site offers no model" in html


def test_deleting_a_model_that_a_role_needs_names_the_role(boss: Reader) -> None:
    boss.send(f"{PAGE}model/delete/", {"id": "a", "confirmed": "1"})
    assert "a is in the chain of persona" in boss.page(PAGE)


# -- models.json


def read(html: str) -> dict[str, str]:
    seen = re.search(r'name="seen" value="(\w+)"', html)
    assert seen
    return {"seen": seen[1]}


def upload(boss: Reader, data: Any, status: int = 200, **more: str) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return boss.send(f"{PAGE}import/", {"text": text, **more}, status)


def test_the_export_is_what_an_import_takes_and_changes_nothing(boss: Reader) -> None:
    answer = boss.client.get(f"{PAGE}export/")
    assert answer["Content-Disposition"] == 'attachment; filename="models.json"'
    assert answer.json()["roles"]["persona"] == ["a", "b"]
    assert "Nothing: the registry holds what the file says." in upload(boss, answer.json())


def test_an_import_shows_what_changes_and_applies_it_when_confirmed(boss: Reader) -> None:
    data = {
        "version": "1.0.0",
        "models": {
            "a": {"provider": "active", "options": {"seed": 1}},
            "new": {"provider": "vllm"},
        },
        "roles": {"persona": ["new", "a"]},
    }
    html = upload(boss, data)
    changes = re.findall(r'data-change="(\w+)"', html)
    assert sorted(changes) == ["added", "changed", "changed", "removed", "removed", "removed"]
    assert chain_of("persona") == ["a", "b"], "nothing has changed yet"
    assert upload(boss, data, 302, **read(html)) == SITE
    assert chain_of("persona") == ["new", "a"]
    assert set(ModelEntry.objects.values_list("id", flat=True)) == {"a", "new"}
    assert Event.objects.filter(event="registry.imported").exists()


def test_a_registry_that_changed_since_it_was_looked_at_is_shown_anew(boss: Reader) -> None:
    data = {"version": "1.0.0", "models": {"a": {"provider": "active"}}, "roles": {}}
    seen = read(upload(boss, data))
    ModelEntry.objects.create(id="meanwhile", provider="active")
    html = upload(boss, data, 200, **seen)
    assert "The registry was changed meanwhile." in html
    assert "meanwhile" in html
    assert ModelEntry.objects.filter(pk="meanwhile").exists()


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        ("{", 400, "The file is no JSON."),
        ("[1]", 422, "It must be a JSON object."),
        ({"models": {}, "roles": {"persona": ["zz"]}}, 422, "which is not among the models"),
        ({"models": {"a": {"provider": 3}}, "roles": {}}, 422, "models.a.provider"),
        ({"models": {"a": {"provider": "x", "colour": 1}}, "roles": {}}, 422, "models.a.colour"),
    ],
)
def test_a_file_that_is_wrong_is_told_so_and_changes_nothing(
    boss: Reader, data: Any, status: int, words: str
) -> None:
    html = upload(boss, data, status)
    assert words in html
    assert "Nothing was taken over." in html
    assert ModelEntry.objects.count() == 4


def test_all_that_is_wrong_with_a_file_is_told_at_once(boss: Reader) -> None:
    data = {"models": {"a": {"provider": 3}, "b": {"provider": "x", "nope": 1}}, "roles": {"P": []}}
    html = upload(boss, data, 422)
    assert all(words in html for words in ("models.a.provider", "models.b.nope", "roles.P"))


@pytest.mark.parametrize("path", ["export/", "import/"])
def test_the_file_is_for_owners(stan: Reader, path: str) -> None:
    stan.page(PAGE + path, 403)
    if path == "import/":
        stan.send(PAGE + path, {"text": "{}"}, 403)
