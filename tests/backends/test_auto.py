"""What is on this machine, and the backend picked by rule: services, REST and the command line."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.errors import NotAllowed
from accounts.models import User
from audit.models import Event
from backends import bus, selectors, services
from backends import foreign as looking
from backends.errors import EngineNotInstalled, InvalidOptions
from backends.lifecycle import State
from backends.models import Backend, Operation
from backends.observer import Observer
from backends.ports import free_port
from mhsite import cli
from mhsite.processes import boot
from tests.backends.conftest import FakeBackend
from tests.backends.foreign import Foreign

Make = Callable[..., Backend]


@pytest.fixture
def rows(
    transactional_db: None, clean_broker: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> Make:
    """Both backends as rows, on free ports; neither is installed."""
    monkeypatch.setenv("MH_VLLM_PYTHON", "/nonexistent/python")
    monkeypatch.setenv("MH_OLLAMA_BIN", "/nonexistent/ollama")
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)

    def make(name: str, **facts: Any) -> Backend:
        return Backend.objects.create(
            name=name,
            engine=name,
            node=settings.MH_NODE,
            options={"port": free_port()},
            state_since=selectors.now(),
            **facts,
        )

    return make


def active() -> str | None:
    found = selectors.active_backend()
    return found.name if found else None


def test_with_nothing_installed_it_says_what_was_looked_for_and_how_to_install_it(
    rows: Make, owner_actor: Actor
) -> None:
    rows("vllm")
    rows("ollama")
    with pytest.raises(EngineNotInstalled) as refused:
        services.backend_auto(actor=owner_actor)
    error = refused.value
    assert (error.status, error.code) == (409, "no_engine")
    assert "vLLM: MH_VLLM_PYTHON names" in error.message
    assert "Ollama: MH_OLLAMA_BIN names" in error.message
    assert Event.objects.filter(target_id="auto", outcome="failure").exists()
    assert Operation.objects.count() == 0


def test_one_that_runs_only_becomes_the_active_one_and_nothing_else_is_touched(
    rows: Make, owner_actor: Actor
) -> None:
    up = {"state": State.READY, "model": "m", "attached": True}
    rows("ollama", **up)
    rows("vllm", **up)
    services.active_set(actor=owner_actor, name="ollama")
    row = services.backend_auto(actor=owner_actor)
    assert (row.kind, row.backend_id, row.state) == ("switch", "vllm", "succeeded")
    assert row.finished_at
    assert active() == "vllm"
    assert Backend.objects.get(name="ollama").state == State.READY
    events = Event.objects.filter(target_id=str(row.pk)).values_list("event", flat=True)
    assert set(events) == {"operation.requested", "operation.succeeded"}


def test_only_who_operates_every_backend_may_have_one_picked(rows: Make, standard: User) -> None:
    rows("vllm", owner=standard)
    with pytest.raises(NotAllowed):
        services.backend_auto(actor=Actor(user=standard, surface="rest"))


@pytest.mark.process
def test_an_installed_one_that_does_not_run_is_switched_to_by_rest(
    fake: Callable[..., FakeBackend], owner: User
) -> None:
    backend = fake()
    bus.worker_beat(settings.MH_NODE)
    client = Client()
    client.force_login(owner)
    answer = client.post("/api/llm-backend/auto")
    assert answer.status_code == 202, answer.content
    worker = backend.run_in_thread()
    answer = client.post("/api/llm-backend/auto?wait=30")
    worker.join(20)
    body = answer.json()
    assert (answer.status_code, body["kind"], body["state"]) == (200, "switch", "succeeded"), body
    again = client.post("/api/llm-backend/auto")
    assert (again.status_code, again.json()["state"]) == (200, "succeeded")
    assert len(backend.pids()) > 0
    assert again.json()["steps"] == []


@pytest.mark.process
def test_detection_without_a_site_looks_for_itself_and_says_who_runs_what(
    rows: Make, foreign: Foreign, capfd: pytest.CaptureFixture[str], owner: User
) -> None:
    vllm, ollama = rows("vllm"), rows("ollama")
    theirs = foreign.vllm(vllm.options["port"], "their-model")
    assert cli.run(["backend", "detect", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {**found["vllm"], "user": ""} == {
        "title": "vLLM", "installed": False, "installing": None, "running": True, "state": "stopped",
        "attached": False, "version": found["vllm"]["version"], "model": "their-model",
        "endpoint": f"http://127.0.0.1:{vllm.options['port']}", "path": "", "unit": "",
        "pid": theirs.pid, "user": "", "reason": "",
    }  # fmt: skip
    assert found["vllm"]["version"]
    assert found["vllm"]["user"]
    assert (found["ollama"]["running"], found["ollama"]["pid"]) == (False, None)
    assert "MH_OLLAMA_BIN" in found["ollama"]["reason"]
    assert found["ollama"]["endpoint"] == f"http://127.0.0.1:{ollama.options['port']}"
    assert cli.run(["backend", "detect"]) == 0
    out = capfd.readouterr().out
    assert f"started by somebody else (pid {theirs.pid}" in out
    assert Backend.objects.get(name="vllm").state == State.STOPPED  # it looked, and changed nothing


@pytest.mark.process
def test_auto_on_the_command_line_takes_what_somebody_else_runs(
    rows: Make, foreign: Foreign, capfd: pytest.CaptureFixture[str], owner: User
) -> None:
    rows("vllm")
    ollama = rows("ollama")
    foreign.ollama(ollama.options["port"])
    assert cli.run(["backend", "auto"]) == 0
    assert "Ollama is the active backend" in capfd.readouterr().out
    assert active() == "ollama"
    assert Backend.objects.get(name="ollama").attached


@pytest.mark.process
def test_detection_by_rest_is_the_observers_and_keeps_processes_and_paths_to_operators(
    rows: Make, foreign: Foreign, owner: User, guest: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = rows("vllm")
    theirs = foreign.vllm(row.options["port"])
    Observer().look()
    monkeypatch.setattr(looking, "find", lambda _row: pytest.fail("a web request must not probe"))
    seen = {}
    for user in (owner, guest):
        client = Client()
        client.force_login(user)
        answer = client.get("/api/llm-backend/detect")
        assert answer.status_code == 200
        seen[user.username] = answer.json()["vllm"]
    assert (seen["olga"]["attached"], seen["olga"]["pid"]) == (True, theirs.pid)
    assert seen["gus"] == {**seen["olga"], "pid": None, "user": "", "path": "", "unit": ""}


# --- what happens when the site comes up -------------------------------------------------------------------


def test_the_start_up_behaviour_is_shown_and_changed_by_rest_and_audited(
    rows: Make, owner: User
) -> None:
    rows("vllm")
    rows("ollama")
    client = Client()
    client.force_login(owner)
    url = "/api/llm-backend/startup"
    assert client.get(url).json()["behavior"] == "auto"
    wanted = {"behavior": "fallback", "auto_start": {"vllm": True}}
    answer = client.patch(url, wanted, "application/json")
    assert answer.status_code == 200, answer.content
    assert answer.json() == {
        "behavior": "fallback",
        "active": None,
        "auto_start": {"ollama": False, "vllm": True},
    }
    event = Event.objects.get(event="switchboard.startup")
    assert (event.actor_name, event.before["behavior"]) == ("olga", "auto")
    for wrong in ({"behavior": "sometimes"}, {"auto_start": {"nope": True}}, {"mode": 1}):
        assert client.patch(url, wrong, "application/json").status_code == 422, wrong
    assert client.get(url).json()["behavior"] == "fallback"


def test_the_start_up_behaviour_on_the_command_line(
    rows: Make, owner: User, capfd: pytest.CaptureFixture[str]
) -> None:
    rows("vllm")
    assert cli.run(["backend", "startup", "vllm", "--auto-start", "vllm"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "Behaviour: vllm",
        "Active backend: none",
        "Started by themselves: vllm",
    ]
    assert cli.run(["backend", "startup", "--no-auto-start", "vllm", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["auto_start"] == {"vllm": False}
    with pytest.raises(InvalidOptions, match="may be: auto, vllm, fallback"):
        services.startup_set(actor=Actor.system(), behavior="sometimes")
