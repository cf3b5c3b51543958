"""The LLM Backend page's forms without a browser: options, history, start-up, first steps."""

from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from accounts.models import User
from backends import bus, selectors, services
from backends.engines.base import Detection
from backends.engines.ollama import OllamaEngine
from backends.engines.vllm import VllmEngine
from backends.lifecycle import State
from backends.models import Backend, ConfigRevision, Operation, Switchboard

pytestmark = pytest.mark.django_db
PAGE = "/admin/backends/llm-backend/"
KEY = "a-key-nobody-may-read"


@pytest.fixture(autouse=True)
def backends(db: None, clean_broker: object, monkeypatch: pytest.MonkeyPatch) -> None:
    services.backends_ensure()
    Backend.objects.exclude(name__in=("ollama", "vllm")).delete()
    there = Detection(installed=True, version="1")
    for engine in (OllamaEngine, VllmEngine):
        monkeypatch.setattr(engine, "detect", lambda _self: there)


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def html_of(client: Client, query: str = "?backend=vllm") -> str:
    answer = client.get(f"{PAGE}{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def fields(client: Client, name: str = "vllm", **changes: str) -> dict[str, Any]:
    """What the browser would send of the form as it stands, with changes."""
    form = client.get(f"{PAGE}?backend={name}").context["part"]["form"]
    data: dict[str, Any] = {"revision": selectors.backend_get(name).revision}
    for field in form.described:
        value = form[field.name].value()
        if field.kind == "switch":
            data |= {f"option-{field.name}": "on"} if value else {}
        else:
            data[f"option-{field.name}"] = "" if value is None else value
    return data | {f"option-{key}": value for key, value in changes.items()}


def save(client: Client, data: dict[str, Any], name: str = "vllm") -> Any:
    return client.post(reverse("admin:llm-backend-configure", args=[name]), data, follow=True)


def test_the_form_of_the_backend_that_is_asked_for_is_shown(as_owner: Client) -> None:
    html = html_of(as_owner, "?backend=ollama")
    assert 'data-configuration="ollama"' in html
    assert 'name="option-keepAlive"' in html
    assert 'name="option-gpuMemoryUtilization"' in html_of(as_owner, "?backend=vllm")


def test_saving_the_form_changes_only_what_was_changed(as_owner: Client) -> None:
    answer = save(as_owner, fields(as_owner, gpuMemoryUtilization="0.8", apiKey=KEY))
    assert "The options are saved." in answer.content.decode()
    row = Backend.objects.get(name="vllm")
    assert row.options == {"gpuMemoryUtilization": 0.8}
    assert selectors.backend_config(row)["secrets"] == {"apiKey": True}
    assert KEY not in answer.content.decode()
    assert ConfigRevision.objects.get(number=1).created_by_name == "olga"


def test_a_form_that_was_not_changed_says_so_and_makes_no_revision(as_owner: Client) -> None:
    assert "Nothing was changed." in save(as_owner, fields(as_owner)).content.decode()
    assert not ConfigRevision.objects.exists()


def test_what_is_wrong_is_said_at_its_field_and_nothing_is_saved(as_owner: Client) -> None:
    answer = save(as_owner, fields(as_owner, maxModelLen="3", model="other"))
    assert answer.status_code == 422
    html = answer.content.decode()
    assert "must be a whole number from 16" in html
    assert 'value="other"' in html
    assert Backend.objects.get(name="vllm").options == {}


def test_the_other_owners_changes_come_first_and_mine_on_top(as_owner: Client, owner: User) -> None:
    mine = fields(as_owner, gpuMemoryUtilization="0.8")
    other = Client()
    other.force_login(owner)
    save(other, fields(other, drainSeconds="33"))
    answer = save(as_owner, mine)
    assert answer.status_code == 409
    html = answer.content.decode()
    assert "olga changed the options of vLLM while you did." in html
    part = answer.context["part"]
    assert part["form"]["drainSeconds"].value() == "33"
    assert part["form"]["gpuMemoryUtilization"].value() == "0.8"
    again = mine | {"revision": part["revision"], "option-drainSeconds": "33"}
    assert save(as_owner, again).status_code == 200
    assert Backend.objects.get(name="vllm").options == {
        "drainSeconds": 33.0,
        "gpuMemoryUtilization": 0.8,
    }


def test_apply_asks_for_an_operation_where_it_runs(as_owner: Client) -> None:
    bus.worker_beat(settings.MH_NODE)
    Backend.objects.filter(name="vllm").update(state=State.READY, model="tiny")
    answer = save(as_owner, fields(as_owner, drainSeconds="5") | {"apply": "1"})
    assert "They are being applied." in answer.content.decode()
    assert Operation.objects.get().kind == "apply"


def test_the_history_is_shown_and_its_button_goes_back(as_owner: Client) -> None:
    save(as_owner, fields(as_owner, drainSeconds="5", apiKey=KEY))
    html = html_of(as_owner)
    assert 'data-revision-number="1"' in html
    assert "<del>10 s</del>" in html
    url = reverse("admin:llm-backend-restore", args=["vllm", 0])
    answer = as_owner.post(url, {"revision": "0"}, follow=True)
    assert "were changed by olga meanwhile" in answer.content.decode()
    as_owner.post(url, {"revision": "1"})
    assert Backend.objects.get(name="vllm").options == {}
    assert "went back to 0" in html_of(as_owner)


def test_what_is_configured_and_does_not_run_yet_is_said(as_owner: Client) -> None:
    Backend.objects.filter(name="vllm").update(
        state=State.READY, model="tiny", started_options={"model": "tiny", "drainSeconds": 3}
    )
    html = html_of(as_owner)
    assert "Saved, and not yet what runs: Model." in html


def test_without_scripts_the_plan_is_worked_out_when_asked(as_owner: Client) -> None:
    assert as_owner.get(f"{PAGE}?backend=vllm").context["part"]["plan"] is None
    html = html_of(as_owner, "?backend=vllm&plan=1")
    assert "Cannot be said" in html
    assert "is not on this machine" in html


@pytest.mark.parametrize("role", ["standard", "guest"])
def test_who_may_not_operate_sees_and_sends_no_form(
    role: str, request: pytest.FixtureRequest
) -> None:
    client = Client()
    client.force_login(request.getfixturevalue(role))
    html = html_of(client)
    for part in ("data-configuration", "data-startup", "data-deployment", "/options/"):
        assert part not in html
    for name, arguments in (("configure", ["vllm"]), ("restore", ["vllm", 0]), ("startup", [])):
        url = reverse(f"admin:llm-backend-{name}", args=arguments)
        assert client.post(url, {"option-model": "x"}).status_code == 403
    assert not ConfigRevision.objects.exists()


def test_the_owner_of_one_backend_changes_its_options_and_no_others(standard: User) -> None:
    Backend.objects.filter(name="ollama").update(owner=standard)
    client = Client()
    client.force_login(standard)
    assert 'data-configuration="ollama"' in html_of(client, "?backend=vllm")
    save(client, fields(client, "ollama", keepAlive="9m"), "ollama")
    assert Backend.objects.get(name="ollama").options == {"keepAlive": "9m"}
    data = {"option-model": "x"}
    assert (
        client.post(reverse("admin:llm-backend-configure", args=["vllm"]), data).status_code == 403
    )


def test_start_up_is_said_with_a_form(as_owner: Client) -> None:
    url = reverse("admin:llm-backend-startup")
    as_owner.post(url, {"behavior": "fallback", "auto_start": ["vllm"]})
    assert Switchboard.objects.get().startup_behavior == "fallback"
    assert selectors.startup()["auto_start"] == {"ollama": False, "vllm": True}
    as_owner.post(url, {"behavior": "auto"})
    assert selectors.startup()["auto_start"] == {"ollama": False, "vllm": False}
    answer = as_owner.post(url, {"behavior": "never"}, follow=True)
    assert "There is no start-up behaviour" in answer.content.decode()


def test_with_nothing_installed_the_page_says_what_was_looked_for_and_what_to_do(
    as_owner: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "data-first-run" not in html_of(as_owner)
    gone = Detection(installed=False, reason="It is not here.")
    for engine in (OllamaEngine, VllmEngine):
        monkeypatch.setattr(engine, "detect", lambda _self: gone)
    monkeypatch.delenv("MH_VLLM_PYTHON", raising=False)
    html = html_of(as_owner)
    assert "data-first-run" in html
    assert "MH_VLLM_PYTHON in the environment: not set" in html
    assert "/usr/local/bin/ollama" in html
    assert "http://127.0.0.1:11434" in html
    assert 'action="/admin/backends/llm-backend/vllm/install/"' in html
    assert OllamaEngine.install_command in html


def test_places_on_the_machine_are_for_operators(
    guest: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Detection(installed=False, reason="It is not here.")
    monkeypatch.setattr(OllamaEngine, "detect", lambda _self: gone)
    client = Client()
    client.force_login(guest)
    assert "/usr/local/bin/ollama" not in html_of(client)


def test_the_install_button_asks_for_an_installation(as_owner: Client) -> None:
    bus.worker_beat(settings.MH_NODE)
    as_owner.post(reverse("admin:llm-backend-operate", args=["vllm", "install"]))
    assert Operation.objects.get().kind == "install"
