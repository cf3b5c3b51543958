"""Revisions of the options: each change is one, secrets are not in it, and it can be gone back to."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from accounts.actors import Actor
from audit.models import Event
from backends import selectors, services
from backends.errors import ConfigurationMoved, InvalidOptions, UnknownRevision
from backends.models import Backend, ConfigRevision
from backends.services import revisions
from tests.backends.conftest import FakeBackend

KEY = "a-key-nobody-may-read"


@pytest.fixture
def backend(fake: Callable[..., FakeBackend]) -> FakeBackend:
    return fake()


def change(actor: Actor, revision: int | None = None, **options: Any) -> Backend:
    return services.backend_configure(actor=actor, name="fake", options=options, revision=revision)


def newest() -> ConfigRevision:
    found = ConfigRevision.objects.filter(backend="fake").first()
    assert found is not None
    return found


def test_a_change_is_a_revision_that_says_who_and_what(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    changed = change(owner_actor, drainSeconds=7)
    assert changed.revision == newest().number == 1
    assert newest().created_by_name == "olga"
    assert newest().changes == [{"option": "drainSeconds", "before": 2.0, "after": 7}]
    assert newest().options["drainSeconds"] == 7


def test_the_first_change_also_keeps_what_was_there_before(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, drainSeconds=7)
    before = selectors.revision_get(backend.row, 0)
    assert before.options == {"port": backend.port}
    assert (before.changes, before.created_by_name) == ([], "")


def test_saying_what_is_so_already_is_no_revision(backend: FakeBackend, owner_actor: Actor) -> None:
    change(owner_actor, drainSeconds=2.0)
    change(owner_actor, model="fake-model")
    assert not ConfigRevision.objects.exists()
    assert backend.row.revision == 0


def test_of_a_secret_a_revision_says_only_that_it_changed(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, apiKey=KEY)
    change(owner_actor, apiKey=KEY + "-2")
    change(owner_actor, apiKey=None)
    said = [row.changes for row in selectors.revision_list(backend.row)]
    assert said == [
        [{"option": "apiKey", "secret": True, "before": True, "after": False}],
        [{"option": "apiKey", "secret": True, "before": True, "after": True}],
        [{"option": "apiKey", "secret": True, "before": False, "after": True}],
        [],
    ]
    kept = [row.options | {"changes": row.changes} for row in ConfigRevision.objects.all()]
    assert KEY not in json.dumps(kept)


def test_options_that_an_operation_keeps_are_a_revision_of_who_asked(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    services.options_keep(actor=owner_actor, name="fake", changes={"model": "other-model"})
    assert newest().changes[0]["after"] == "other-model"
    assert newest().created_by_name == "olga"


def test_a_file_that_is_read_in_is_a_revision(backend: FakeBackend) -> None:
    data = {"version": "1.0.0", "fake": {"drainSeconds": 3}}
    services.config_import(actor=Actor.system(), data=data)
    assert {change["option"] for change in newest().changes} == {"drainSeconds"}


def test_who_began_from_an_older_revision_is_told_who_was_faster(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, revision=0, drainSeconds=7)
    with pytest.raises(ConfigurationMoved, match=r"changed by olga .* revision 1") as told:
        change(owner_actor, revision=0, drainSeconds=9)
    assert (told.value.status, told.value.code) == (409, "configuration_moved")
    assert backend.row.options["drainSeconds"] == 7
    change(owner_actor, revision=1, drainSeconds=9)
    assert backend.row.options["drainSeconds"] == 9


def test_restoring_is_a_revision_of_its_own_and_leaves_secrets(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, drainSeconds=7, apiKey=KEY)
    change(owner_actor, drainSeconds=9, shareGpu=True)
    services.backend_restore(actor=owner_actor, name="fake", number=1)
    assert backend.row.options == {"port": backend.port, "drainSeconds": 7}
    assert selectors.backend_config(backend.row)["secrets"] == {"apiKey": True}
    assert (newest().number, newest().restored) == (3, 1)
    services.backend_restore(actor=owner_actor, name="fake", number=2)
    assert backend.row.options["shareGpu"] is True
    assert Event.objects.filter(event="backend.configured").count() == 4


def test_restoring_says_what_it_would_change(backend: FakeBackend, owner_actor: Actor) -> None:
    change(owner_actor, drainSeconds=7)
    before = selectors.revision_get(backend.row, 0)
    assert selectors.revision_difference(backend.row, before) == [
        {"option": "drainSeconds", "before": 7.0, "after": 2.0}
    ]


def test_a_revision_that_is_not_kept_or_not_valid_any_more_is_refused(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, drainSeconds=7)
    with pytest.raises(UnknownRevision, match="no revision 12"):
        services.backend_restore(actor=owner_actor, name="fake", number=12)
    ConfigRevision.objects.filter(number=0).update(options={"gone": 1})
    with pytest.raises(InvalidOptions, match="gone"):
        services.backend_restore(actor=owner_actor, name="fake", number=0)
    assert backend.row.options["drainSeconds"] == 7


def test_only_so_many_revisions_are_kept(
    backend: FakeBackend, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "KEPT", 3)
    for seconds in range(10, 16):
        change(owner_actor, drainSeconds=seconds)
    assert [row.number for row in selectors.revision_list(backend.row)] == [6, 5, 4]
    assert selectors.revisions(backend.row).count() == 3


def test_the_status_says_which_revision_the_options_are_at(
    backend: FakeBackend, owner_actor: Actor
) -> None:
    change(owner_actor, drainSeconds=7)
    assert selectors.status()["available"]["fake"]["revision"] == 1
