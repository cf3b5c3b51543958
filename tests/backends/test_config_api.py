"""REST of options and their revisions: two owners at once, going back, and installing."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.models import User
from audit.models import Event, Outcome
from backends import bus
from backends.models import Backend, Operation
from tests.backends.conftest import FakeBackend

ROOT = "/api/llm-backend/fake"
KEY = "a-key-nobody-may-read"


@pytest.fixture
def backend(fake: Callable[..., FakeBackend]) -> FakeBackend:
    bus.worker_beat(settings.MH_NODE)
    return fake()


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def patch(client: Client, data: Any, **headers: str) -> Any:
    return client.patch(f"{ROOT}/config", data, "application/json", headers=headers)


def post(client: Client, path: str, data: Any = None) -> Any:
    return client.post(f"{ROOT}{path}", data or {}, "application/json")


def test_the_options_come_with_their_revision_as_etag(
    backend: FakeBackend, as_owner: Client
) -> None:
    read = as_owner.get(f"{ROOT}/config")
    assert (read["ETag"], read.json()["revision"]) == ('"0"', 0)
    changed = patch(as_owner, {"options": {"drainSeconds": 5}})
    assert (changed["ETag"], changed.json()["revision"]) == ('"1"', 1)


@pytest.mark.parametrize("how", ["body", "header", "weak header"])
def test_who_read_older_options_hears_409_and_nothing_changes(
    backend: FakeBackend, as_owner: Client, how: str
) -> None:
    patch(as_owner, {"options": {"drainSeconds": 5}})
    wish: dict[str, Any] = {"options": {"drainSeconds": 6}}
    if how == "body":
        answer = patch(as_owner, wish | {"revision": 0})
    else:
        answer = patch(as_owner, wish, if_match='"0"' if how == "header" else 'W/"0"')
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "configuration_moved"
    assert backend.row.options["drainSeconds"] == 5
    assert patch(as_owner, wish, if_match='"1"').status_code == 200
    assert patch(as_owner, {"options": {"drainSeconds": 7}}, if_match="*").status_code == 200


@pytest.mark.parametrize(
    ("body", "header", "param"),
    [
        ({}, "seven", "If-Match"),
        ({}, '"99999999999999999999"', "If-Match"),
        ({"revision": 1}, '"0"', "revision"),
        ({"revision": -1}, "", "revision"),
        ({"revision": 10**20}, "", "revision"),
        ({"revision": "x"}, "", "revision"),
    ],
)
def test_a_revision_that_is_none_is_named(
    backend: FakeBackend, as_owner: Client, body: Any, header: str, param: str
) -> None:
    answer = patch(as_owner, {"options": {}, **body}, if_match=header)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_revisions_are_listed_newest_first_without_secrets(
    backend: FakeBackend, as_owner: Client
) -> None:
    patch(as_owner, {"options": {"drainSeconds": 5}})
    patch(as_owner, {"options": {"apiKey": KEY}})
    answer = as_owner.get(f"{ROOT}/revisions?limit=2")
    body = answer.json()
    assert [row["number"] for row in body["results"]] == [2, 1]
    assert (body["count"], body["results"][0]["created_by"]) == (3, "olga")
    assert KEY not in answer.content.decode()
    assert as_owner.get(f"{ROOT}/revisions?limit=no").status_code == 422


def test_going_back_over_rest_and_applying_it(backend: FakeBackend, as_owner: Client) -> None:
    patch(as_owner, {"options": {"drainSeconds": 5}})
    answer = post(as_owner, "/revisions/0/restore", {"revision": 1, "apply": True})
    assert answer.status_code == 200, answer.content
    assert answer.json()["options"]["drainSeconds"] == 2.0
    assert "operation" not in answer.json()  # it does not run, so there is nothing to apply
    assert post(as_owner, "/revisions/0/restore", {"revision": 1}).status_code == 409
    unknown = post(as_owner, "/revisions/77/restore")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "revision_not_found")
    assert post(as_owner, f"/revisions/{10**30}/restore").status_code == 404


def test_a_plan_can_tell_what_is_wrong_instead_of_failing(
    backend: FakeBackend, as_owner: Client
) -> None:
    wrong = {"options": {"port": 0}}
    assert post(as_owner, "/plan", wrong).status_code == 422
    told = post(as_owner, "/plan?problems=true", wrong)
    assert told.status_code == 200
    assert told.json()["verdict"] == "unknown"
    assert told.json()["problems"][0]["option"] == "port"
    gone = post(as_owner, "/plan?problems=true", {"model": "nope"}).json()
    assert (gone["problems"][0]["option"], gone["model"]) == ("model", "nope")


def test_what_mh_does_not_install_is_refused_with_a_sentence(
    backend: FakeBackend, as_owner: Client
) -> None:
    answer = post(as_owner, "/install")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "engine_cannot")
    assert not Operation.objects.exists()


def test_owning_one_backend_is_not_enough_to_install_on_the_machine(
    backend: FakeBackend, standard: User
) -> None:
    Backend.objects.filter(name="fake").update(owner=standard)
    client = Client()
    client.force_login(standard)
    assert client.get(f"{ROOT}/revisions").status_code == 200
    assert post(client, "/install").status_code == 403
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor=standard).count() == 1
