"""The LLM Backend page without a browser: who sees what, what the forms do, and what the files may hold."""

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from audit.models import Event, Outcome
from backends import cards, services
from backends.engines.base import Detection
from backends.engines.ollama import OllamaEngine
from backends.lifecycle import State
from backends.models import Backend, Operation

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def backends(db: None, clean_broker: object) -> None:
    services.backends_ensure()


def page_of(client: Client, user: User | None) -> str:
    if user is not None:
        client.force_login(user)
    response = client.get(reverse("admin:llm-backend"))
    assert response.status_code == 200
    return response.content.decode()


def test_the_first_page_of_the_site_is_the_llm_backend_page(client: Client, owner: User) -> None:
    client.force_login(owner)
    assert client.get("/", follow=True).redirect_chain == [
        ("/admin/", 302),
        ("/admin/backends/llm-backend/", 302),
    ]


def test_the_page_asks_strangers_to_sign_in_and_brings_them_back(client: Client) -> None:
    response = client.get(reverse("admin:llm-backend"))
    assert response.status_code == 302
    assert response["Location"] == "/admin/login/?next=/admin/backends/llm-backend/"


def test_an_owner_sees_a_card_with_forms_a_log_and_a_chat_box(client: Client, owner: User) -> None:
    html = page_of(client, owner)
    assert 'data-backend="vllm"' in html
    assert 'action="/admin/backends/llm-backend/vllm/start/"' in html
    assert "data-log-text" in html
    assert 'id="mh-prompt"' in html


def test_an_engine_that_is_not_installed_has_a_card_that_says_why(
    client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_OLLAMA_BIN", "/nowhere/ollama")
    html = page_of(client, owner)
    assert 'data-backend="ollama" data-state="missing"' in html
    assert "MH_OLLAMA_BIN names /nowhere/ollama, which does not exist." in html
    assert "mh ollama install" not in html


def test_the_card_of_the_other_backend_offers_to_switch_to_it(
    client: Client, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Detection(installed=True, version="1")
    monkeypatch.setattr(OllamaEngine, "detect", lambda _self: installed)
    form = 'action="/admin/backends/llm-backend/ollama/switch/" data-action="switch" '
    assert f"{form}hidden" in page_of(client, owner)
    Backend.objects.filter(name="vllm").update(state=State.READY, model="tiny")
    html = page_of(client, owner)
    assert f"{form}hidden" not in html
    assert "Switch to Ollama</button>" in html
    response = client.post(
        reverse("admin:llm-backend-operate", args=["ollama", "switch"]), follow=True
    )
    assert "worker" in str(next(iter(response.context["messages"]))).lower()


def test_a_guest_sees_the_state_and_nothing_to_press(client: Client, guest: User) -> None:
    html = page_of(client, guest)
    assert 'data-backend="vllm"' in html
    assert "/vllm/start/" not in html
    assert "data-log-text" not in html
    assert 'id="mh-prompt"' not in html


def test_a_standard_user_may_chat_but_not_operate(client: Client, standard: User) -> None:
    html = page_of(client, standard)
    assert 'id="mh-prompt"' in html
    assert "/vllm/start/" not in html


def test_the_owner_of_one_backend_operates_it(client: Client, standard: User) -> None:
    Backend.objects.filter(name="vllm").update(owner=standard)
    assert 'action="/admin/backends/llm-backend/vllm/start/"' in page_of(client, standard)


@pytest.mark.parametrize("role", ["standard", "guest"])
def test_pressing_start_without_permission_is_refused_and_audited(
    client: Client, role: str, request: pytest.FixtureRequest
) -> None:
    user: User = request.getfixturevalue(role)
    client.force_login(user)
    response = client.post(reverse("admin:llm-backend-operate", args=["vllm", "start"]))
    assert response.status_code == 403
    assert "may not" in response.content.decode()
    assert not Operation.objects.exists()
    assert Event.objects.filter(outcome=Outcome.REFUSED, actor=user).exists()


def test_pressing_start_with_no_worker_says_so(client: Client, owner: User) -> None:
    client.force_login(owner)
    response = client.post(
        reverse("admin:llm-backend-operate", args=["vllm", "start"]), follow=True
    )
    assert response.redirect_chain == [("/admin/backends/llm-backend/", 302)]
    assert "worker" in str(next(iter(response.context["messages"]))).lower()
    assert not Operation.objects.exists()


@pytest.mark.parametrize("path", ["nonsense/start", "vllm/explode"])
def test_an_unknown_backend_or_action_is_a_sentence_on_the_page(
    client: Client, owner: User, path: str
) -> None:
    client.force_login(owner)
    response = client.post(f"/admin/backends/llm-backend/{path}/", follow=True)
    assert response.status_code == 200
    [message] = response.context["messages"]
    assert "There is no" in str(message)


def test_the_forms_cannot_be_sent_from_elsewhere(owner: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    path = reverse("admin:llm-backend-operate", args=["vllm", "start"])
    assert client.post(path).status_code == 403
    assert client.get(path).status_code == 405


def test_a_failure_shows_the_engines_line_to_its_operators_only(
    client: Client, owner: User, guest: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"installed": True, "installing": None, "version": "0.32.0", "reason": ""}
    monkeypatch.setattr("backends.selectors.overview.detection_now", lambda _row: found)
    Backend.objects.filter(name="vllm").update(
        state=State.FAILED, failure="vLLM ended suddenly.", failure_detail="ValueError: <b>no</b>"
    )
    html = page_of(client, owner)
    assert 'data-state="failed"' in html
    assert "ValueError: &lt;b&gt;no&lt;/b&gt;" in html
    html = page_of(Client(), guest)
    assert "vLLM ended suddenly." in html
    assert "ValueError" not in html


def test_a_standard_users_page_hides_the_pages_of_owners(client: Client, standard: User) -> None:
    html = page_of(client, standard)
    for name in ("audit", "operations", "logs"):
        assert reverse(f"admin:{name}") not in html
        assert client.get(reverse(f"admin:{name}")).status_code == 403


def test_every_step_and_kind_that_runs_has_words() -> None:
    from backends.operations import plans

    names = {plans.step_name(step) for plan in plans.PLANS.values() for step in plan}
    assert names <= set(cards.STEP_WORDS)
    assert set(plans.PLANS) <= set(cards.OPERATION_WORDS)


def test_a_user_may_sign_in_on_the_form_whatever_their_role(client: Client, guest: User) -> None:
    sent = {"username": guest.username, "password": "pw-gus-1234", "next": "/admin/"}
    response = client.post("/admin/login/?next=/admin/", sent, follow=True)
    assert response.request["PATH_INFO"] == "/admin/backends/llm-backend/"
