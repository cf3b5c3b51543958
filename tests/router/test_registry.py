import json

import pytest
from django.conf import settings
from django.core.management import call_command

from accounts.actors import Actor
from accounts.errors import InvalidRequest, NotAllowed
from accounts.models import User
from audit.models import Event
from backends import selectors as backends
from backends.lifecycle import State
from backends.models import Backend, Switchboard
from mhsite import home
from router import selectors
from router.models import ModelEntry
from router.registry_schemas import RegistryFile
from router.schemas import SHIPPED_ROLES
from router.services import registry_export, registry_import

SHIPPED = home.REPOSITORY / "etc" / "models.json"
SCHEMA = home.REPOSITORY / "etc" / "schemas" / "models.json"

pytestmark = pytest.mark.django_db


def test_the_shipped_file_names_every_shipped_role() -> None:
    assert set(json.loads(SHIPPED.read_text())["roles"]) == set(SHIPPED_ROLES)


def test_the_shipped_schema_is_the_models_own() -> None:
    schema = RegistryFile.model_json_schema(by_alias=True)
    assert json.loads(SCHEMA.read_text()) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
    }


def test_an_import_is_what_an_export_gives_back_and_leaves_an_event(owner_actor: Actor) -> None:
    data = json.loads(SHIPPED.read_text())
    registry_import(actor=owner_actor, data=data)
    registry_import(actor=owner_actor, data=data)
    exported = registry_export()
    assert exported["models"] == data["models"]
    assert exported["roles"] == data["roles"]
    event = Event.objects.filter(event="registry.imported").latest("id")
    assert event.actor_name == "olga"
    assert event.before == event.after


def test_an_import_replaces_what_was_there(owner_actor: Actor) -> None:
    first = {
        "models": {
            "a": {"provider": "active"},
            "b": {"provider": "active", "options": {"topP": 0.5}},
        },
        "roles": {"persona": ["a", "b"]},
    }
    registry_import(actor=owner_actor, data=first)
    assert selectors.registry().roles["persona"] == ["a", "b"]
    assert selectors.registry().entries["b"].options == {"top_p": 0.5}
    registry_import(
        actor=owner_actor, data={"models": {"b": {"provider": "vllm"}}, "roles": {"persona": ["b"]}}
    )
    registry = selectors.registry()
    assert list(registry.entries) == ["b"]
    assert registry.roles["persona"] == ["b"]
    assert registry.roles["coder"] == []


def test_a_bad_file_changes_nothing(owner_actor: Actor) -> None:
    with pytest.raises(InvalidRequest, match=r"models\.a\.colour"):
        registry_import(
            actor=owner_actor,
            data={"models": {"a": {"provider": "active", "colour": "red"}}, "roles": {}},
        )
    assert not ModelEntry.objects.exists()


def test_a_standard_user_may_not_import(standard: User) -> None:
    with pytest.raises(NotAllowed):
        registry_import(
            actor=Actor(user=standard, surface="rest"), data={"models": {}, "roles": {}}
        )
    assert Event.objects.filter(outcome="refused").exists()


def test_a_switch_that_ends_between_two_reads_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Backend.objects.create(
        name="vllm", engine="vllm", node=settings.MH_NODE, state=State.READY, model="m",
        endpoint="http://127.0.0.1:1",
    )  # fmt: skip
    Switchboard.objects.update_or_create(id=1, defaults={"active_backend": backend})
    serving = backends.serving_targets()
    reads = iter([[], serving, serving])
    monkeypatch.setattr(backends, "serving_targets", lambda: next(reads))
    assert selectors.resolved(role="persona").route.backend == "vllm"


def test_the_migrations_are_complete() -> None:
    call_command("makemigrations", "router", check=True, dry_run=True, verbosity=0)
