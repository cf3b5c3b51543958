"""REST of backends: who may, shapes, and bad input."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.models import User
from audit.models import Event, Outcome
from backends import bus
from backends.models import Operation
from tests.backends.conftest import FakeBackend

ROOT = "/api/llm-backend"


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def backend(fake: Callable[..., FakeBackend]) -> FakeBackend:
    bus.worker_beat(settings.MH_NODE)
    return fake()


def post(client: Client, path: str, data: Any = None) -> Any:
    return client.post(ROOT + path, data if data is not None else {}, "application/json")


def error_of(response: Any) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "request_id"}
    assert "Traceback" not in response.content.decode()
    return error


def test_status_has_what_the_contract_says(backend: FakeBackend, as_owner: Client) -> None:
    status = as_owner.get(f"{ROOT}/status").json()
    assert set(status) >= {
        "active", "available", "operation", "gpus", "deployment_mode", "observed_at",
    }  # fmt: skip
    assert set(status["active"]) == {
        "backend", "engine", "node", "state", "running", "health", "model", "version",
        "endpoint", "attached", "in_flight", "since",
    }  # fmt: skip
    assert status["active"]["backend"] == "fake"
    assert status["available"]["fake"]["state"] == "stopped"
    assert status["operation"] is None


def test_a_start_answers_202_with_the_operation_and_its_place(
    backend: FakeBackend, as_owner: Client
) -> None:
    response = post(as_owner, "/fake/start")
    assert response.status_code == 202, response.content
    body = response.json()
    assert (body["kind"], body["backend"], body["state"]) == ("start", "fake", "queued")
    assert response["Location"] == f"{ROOT}/operations/{body['id']}"
    assert as_owner.get(response["Location"]).json()["id"] == body["id"]
    listed = as_owner.get(f"{ROOT}/operations").json()["results"]
    assert [row["id"] for row in listed] == [body["id"]]


def test_waiting_gives_the_ended_operation(backend: FakeBackend, as_owner: Client) -> None:
    worker = None
    row = post(as_owner, "/fake/start", {"model": "nope"}).json()
    worker = backend.run_in_thread()
    answer = as_owner.get(f"{ROOT}/operations/{row['id']}?wait=20").json()
    worker.join(20)
    assert answer["state"] == "failed"
    assert answer["error"]["code"] == "model_not_found"


def test_cancelling_over_rest(backend: FakeBackend, as_owner: Client) -> None:
    row = post(as_owner, "/fake/start").json()
    answer = post(as_owner, f"/operations/{row['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")


@pytest.mark.parametrize(
    ("data", "status", "param"),
    [
        ({"options": {"port": "many"}}, 422, "options.port"),
        ({"options": {"port": 0}}, 422, "options.port"),
        ({"options": {"nonsense": True}}, 422, "options.nonsense"),
        ({"options": {"apiKey": "x"}}, 422, "options.apiKey"),
        ({"options": 5}, 422, "options"),
        ({"model": 5.5, "options": []}, 422, "model"),
        ({"nonsense": 1}, 422, "nonsense"),
        ([], 422, None),
    ],
)
def test_wrong_requests_are_named_and_start_nothing(
    backend: FakeBackend, as_owner: Client, data: Any, status: int, param: str | None
) -> None:
    response = post(as_owner, "/fake/start", data)
    assert response.status_code == status, response.content
    assert error_of(response)["param"] == param or param is None
    assert not Operation.objects.exists()


def test_malformed_json_is_400(backend: FakeBackend, as_owner: Client) -> None:
    response = as_owner.post(f"{ROOT}/fake/start", "{nope", "application/json")
    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize("wait", ["soon", "-1", "1e9", "nan"])
def test_a_wrong_wait_is_refused_before_anything_starts(
    backend: FakeBackend, as_owner: Client, wait: str
) -> None:
    response = post(as_owner, f"/fake/start?wait={wait}")
    assert response.status_code == 422
    assert error_of(response)["param"] == "wait"
    assert not Operation.objects.exists()


@pytest.mark.parametrize(
    "path", ["/nope/start", "/nope/stop", "/nope/restart", "/operations/nope/cancel"]
)
def test_unknown_things_are_404_for_the_owner(
    backend: FakeBackend, as_owner: Client, path: str
) -> None:
    response = post(as_owner, path)
    assert response.status_code == 404
    error_of(response)


def test_without_a_worker_it_is_503_and_does_not_hang(
    fake: Callable[..., FakeBackend], as_owner: Client
) -> None:
    fake()
    response = post(as_owner, "/fake/start?wait=60")
    assert response.status_code == 503
    assert error_of(response)["code"] == "worker_unavailable"
    assert response["Retry-After"]


@pytest.mark.parametrize("path", ["/fake/start", "/fake/stop", "/fake/restart", "/nope/start"])
def test_a_standard_user_gets_403_and_it_is_audited(
    backend: FakeBackend, standard: User, path: str
) -> None:
    client = Client()
    client.force_login(standard)
    response = post(client, path)
    assert response.status_code == 403
    error_of(response)
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor_name="stan").count() == 1


def test_configuration_is_changed_checked_and_put_back(
    backend: FakeBackend, as_owner: Client
) -> None:
    url = f"{ROOT}/fake/config"
    changed = as_owner.patch(url, {"options": {"drainSeconds": 7}}, "application/json")
    assert changed.json()["options"]["drainSeconds"] == 7
    wrong = as_owner.patch(url, {"options": {"drainSeconds": 700}}, "application/json")
    assert (wrong.status_code, error_of(wrong)["param"]) == (422, "options.drainSeconds")
    back = as_owner.patch(url, {"options": {"drainSeconds": None}}, "application/json")
    assert back.json()["options"]["drainSeconds"] == 2.0
    event = Event.objects.filter(event="backend.configured").first()
    assert event is not None
    assert event.after["options"] == {"drainSeconds": 7.0}


def test_a_change_of_nothing_changes_nothing(backend: FakeBackend, as_owner: Client) -> None:
    url = f"{ROOT}/fake/config"
    before = as_owner.get(url).json()
    assert as_owner.patch(url, {}, "application/json").json() == before
    assert not Event.objects.filter(event="backend.configured").exists()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/fake/config", {"options": {}, "apply": 1}, "apply"),
        ("/startup", {"auto_start": {"fake": "yes"}}, "auto_start"),
        ("/startup", {"behavior": 5}, "behavior"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(
    backend: FakeBackend, as_owner: Client, path: str, body: Any, param: str
) -> None:
    answer = as_owner.patch(ROOT + path, body, "application/json")
    assert (answer.status_code, error_of(answer)["param"]) == (422, param)


def test_models_and_logs(backend: FakeBackend, as_owner: Client) -> None:
    models = as_owner.get(f"{ROOT}/fake/models").json()["results"]
    assert {model["id"] for model in models} == {"fake-model", "other-model"}
    empty = {"backend": "fake", "lines": [], "starts": []}
    assert as_owner.get(f"{ROOT}/fake/logs").json() == empty
    assert as_owner.get(f"{ROOT}/fake/logs?lines=x").status_code == 422


def test_the_engines_own_words_are_for_operators(
    backend: FakeBackend, as_owner: Client, standard: User
) -> None:
    from backends import selectors

    payload = {"type": "operation", "operation": {"error": {"detail": "/secret/path"}}}
    from accounts.actors import Actor

    shown = selectors.frame_for(Actor(user=standard, surface="websocket"), payload)
    assert shown["operation"]["error"]["detail"] == ""
    owner = User.objects.get(username="olga")
    assert selectors.frame_for(Actor(user=owner, surface="websocket"), payload) == payload
