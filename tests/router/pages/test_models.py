"""The Models page as the server writes it, and its forms."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from audit.models import Event, Outcome
from backends import inventory, selectors, services
from backends.errors import InvalidOptions
from backends.inventory import ModelPayload

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def installed(db: None, clean_broker: object) -> None:
    services.backends_ensure()


@pytest.fixture
def browser(client: Client, owner: User) -> Client:
    client.force_login(owner)
    return client


def model(name: str, **more: Any) -> ModelPayload:
    plain: dict[str, Any] = {
        "id": name,
        "path": "",
        "size_bytes": 3 << 30,
        "problem": "",
        "place": "store",
        "architecture": "llama",
        "quantization": "Q4_K_M",
        "context_length": 4096,
        "loaded": False,
        "configured": False,
    }
    return ModelPayload(**(plain | more))  # type: ignore[typeddict-item]


def shown(browser: Client) -> str:
    response = browser.get(reverse("admin:models"))
    assert response.status_code == 200
    return response.content.decode()


def test_a_model_says_its_facts_and_one_in_memory_can_be_neither_served_nor_deleted(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"ollama": [model("small:1b"), model("busy:1b", loaded=True)], "vllm": []}
    monkeypatch.setattr(inventory, "model_list", lambda name, _query: found.get(name, []))
    html = shown(browser)
    small, busy = (
        html.split(f'data-model="{name}"')[1].split("</tr>")[0] for name in ("small:1b", "busy:1b")
    )
    for fact in ("Ollama", "3.0 GB", "Q4_K_M", "4096", "its own store", "Start with it", "Delete…"):
        assert fact in small
    assert "in memory" in busy
    assert "<button" not in busy


def test_an_engine_whose_models_cannot_be_read_does_not_hide_those_of_the_other(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(name: str, _query: str) -> list[ModelPayload]:
        if name == "vllm":
            raise InvalidOptions("The folder is closed.")
        return [model("small:1b")]

    monkeypatch.setattr(inventory, "model_list", listed)
    html = shown(browser)
    assert "The models of vLLM cannot be read: The folder is closed." in html
    assert 'data-model="small:1b"' in html


@pytest.mark.parametrize(
    ("action", "data"),
    [
        ("pull", {"backend": "nosuch", "model": "x"}),
        ("pull", {"backend": "ollama", "model": ""}),
        ("pull", {}),
        ("delete", {"backend": "ollama", "model": "nosuch:1b"}),
        ("serve", {"backend": "nosuch", "model": "x"}),
    ],
)
def test_what_cannot_be_done_comes_back_as_a_sentence(
    browser: Client, action: str, data: dict[str, str]
) -> None:
    response = browser.post(reverse(f"admin:models-{action}"), data, follow=True)
    assert response.redirect_chain == [(reverse("admin:models"), 302)]
    said = [str(message) for message in response.context["messages"]]
    assert len(said) == 1
    assert said[0].endswith((".", "mh up"))
    assert selectors.operation_list() == []


def test_a_standard_user_may_ask_for_nothing(client: Client, standard: User) -> None:
    client.force_login(standard)
    for action in ("pull", "delete", "serve"):
        data = {"backend": "ollama", "model": "small:1b"}
        assert client.post(reverse(f"admin:models-{action}"), data).status_code == 403
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor=standard).count() == 3
