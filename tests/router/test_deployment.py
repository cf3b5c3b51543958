"""Where models run: said over REST and on the LLM Backend page."""

from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from audit.models import Event
from backends import services as backends
from backends.models import Switchboard
from router.models import ProviderAccount
from router.registry_reads import deployment

pytestmark = pytest.mark.django_db
URL = "/api/deployment"
PAGE = "/admin/backends/llm-backend/"


@pytest.fixture
def as_owner(owner: User, clean_broker: object) -> Client:
    backends.backends_ensure()
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def account() -> ProviderAccount:
    settings = {"baseUrl": "https://openrouter.ai/api/v1"}
    return ProviderAccount.objects.create(name="router", kind="openai", settings=settings)


def patch(client: Client, data: Any) -> Any:
    return client.patch(URL, data, "application/json")


def test_the_mode_and_the_account_are_read_and_changed(
    as_owner: Client, account: ProviderAccount
) -> None:
    assert as_owner.get(URL).json() == {"mode": "local", "server_account": ""}
    changed = patch(as_owner, {"mode": "server", "server_account": "router"})
    assert changed.json() == {"mode": "server", "server_account": "router"}
    assert Switchboard.objects.get().deployment_mode == "server"
    assert patch(as_owner, {"mode": "local"}).json()["server_account"] == "router"
    event = Event.objects.filter(event="deployment.changed").earliest("id")
    assert (event.before["mode"], event.after["mode"]) == ("local", "server")


@pytest.mark.parametrize(
    ("data", "param"),
    [
        ({"mode": "cloud"}, "mode"),
        ({"mode": "server"}, "server_account"),
        ({"mode": "server", "server_account": "nobody"}, "server_account"),
        ({"server_account": "nobody"}, "server_account"),
        ({"place": "server"}, "place"),
        ({"mode": 5}, "mode"),
        ([], None),
    ],
)
def test_what_cannot_be_is_refused_and_named(as_owner: Client, data: Any, param: str) -> None:
    answer = patch(as_owner, data)
    assert answer.status_code == 422, answer.content
    assert answer.json()["error"]["param"] == param
    assert deployment().mode == "local"
    assert not Event.objects.filter(event="deployment.changed").exists()


def test_the_page_has_a_form_for_it(as_owner: Client, account: ProviderAccount) -> None:
    assert 'id="deployment"' in as_owner.get(PAGE).content.decode()
    sent = {"mode": "server", "server_account": "router"}
    answer = as_owner.post(f"{PAGE}deployment/", sent, follow=True)
    assert "Where models run is saved." in answer.content.decode()
    assert deployment().mode == "server"
    answer = as_owner.post(f"{PAGE}deployment/", {**sent, "server_account": ""}, follow=True)
    assert "Server mode needs an account" in answer.content.decode()


def test_others_neither_see_nor_send_it(standard: User, as_owner: Client) -> None:
    client = Client()
    client.force_login(standard)
    assert 'id="deployment"' not in client.get(PAGE).content.decode()
    assert client.post(f"{PAGE}deployment/", {"mode": "local"}).status_code == 403
