"""Engines that somebody else started: used, watched, asked to unload, and never killed by us."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import redis
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.models import User
from audit.models import Event
from backends import bus, leases, selectors, services, supervisor, watching
from backends import systemd as units
from backends.engines.vllm.engine import VllmEngine
from backends.engines.vllm.options import VllmOptions
from backends.errors import BackendNotRunning, EngineAttached
from backends.lifecycle import State
from backends.models import Backend, Operation
from backends.observer import Observer
from backends.operations.runner import run_operations
from backends.ports import free_port
from backends.request_leases import request_lease
from mhsite.processes import engines as site_engines
from router.schemas import ChatRequest
from router.services import chat_complete
from tests.backends.conftest import FakeBackend
from tests.backends.foreign import (
    MODEL,
    Foreign,
    Systemd,
    is_listening,
    lives,
    until,
)
from tests.fakes import fake_ollama

pytestmark = pytest.mark.process
Make = Callable[..., Backend]


@pytest.fixture
def backend(
    transactional_db: None,
    clean_broker: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    foreign: Foreign,
) -> Iterator[Make]:
    """Make the row ``vllm`` or ``ollama`` on a free port. Nothing of it is installed unless a test says so."""
    monkeypatch.setattr(watching, "FIND_SECONDS", 0.1)
    monkeypatch.setattr(watching, "FOLLOW_SECONDS", 0.1)
    monkeypatch.setenv("MH_VLLM_PYTHON", "/nonexistent/python")
    monkeypatch.setenv("MH_OLLAMA_BIN", "/nonexistent/ollama")

    def make(name: str, **options: Any) -> Backend:
        own = {"model": MODEL} if name == "ollama" else {"model": "fake-model"}
        values = {"port": free_port(), "drainSeconds": 0.5, **own, **options}
        return Backend.objects.create(
            name=name,
            engine=name,
            node=settings.MH_NODE,
            options=values,
            state_since=selectors.now(),
        )

    yield make
    for name in ("vllm", "ollama"):
        for inst in supervisor.find(settings.MH_HOME, name):
            supervisor.stop(inst, grace=0.2)


def port_of(row: Backend) -> int:
    return int(row.options["port"])


def now(name: str) -> Backend:
    return Backend.objects.get(name=name)


def observe_until(observer: Observer, done: Callable[[], object], what: str) -> None:
    def look() -> object:
        observer.look()
        return done()

    until(look, what)


def attached(name: str) -> bool:
    row = now(name)
    return row.attached and row.state == State.READY


def run(ask: Callable[..., Operation], actor: Actor, name: str, **arguments: Any) -> Operation:
    row = ask(actor=actor, name=name, foreground=True, **arguments)
    run_operations(settings.MH_NODE)
    return selectors.operation_get(str(row.pk))


def in_memory(port: int) -> list[str]:
    answer = httpx.get(f"http://127.0.0.1:{port}/api/ps", trust_env=False).json()
    return [model["name"] for model in answer["models"]]


def load(port: int, model: str = MODEL) -> None:
    url = f"http://127.0.0.1:{port}/api/generate"
    httpx.post(url, json={"model": model, "stream": False}, timeout=20, trust_env=False)


# --- found, followed, let go ------------------------------------------------------------------------


def test_a_vllm_in_somebodys_terminal_is_attached_and_answers_chats(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("vllm", model="configured-model")
    theirs = foreign.vllm(port_of(row), "their-model")
    observe_until(Observer(), lambda: attached("vllm"), "attached")
    row = now("vllm")
    assert (row.model, row.endpoint) == ("their-model", f"http://127.0.0.1:{port_of(row)}")
    assert row.version
    assert row.instance_id == ""
    event = Event.objects.get(event="backend.attached")
    assert (event.actor_name, event.target_id) == ("system", "vllm")
    assert f"pid {theirs.pid}" in event.message
    active = selectors.status()["active"]
    assert (active["backend"], active["attached"], active["running"]) == ("vllm", True, True)
    request = ChatRequest(messages=[{"role": "user", "content": "hi"}])
    answer = async_to_sync(chat_complete)(actor=owner_actor, request=request)
    assert (answer["backend"], answer["model"]) == ("vllm", "their-model")
    assert answer["content"]


def test_a_request_to_an_attached_engine_holds_a_lease(backend: Make, foreign: Foreign) -> None:
    row = backend("vllm")
    foreign.vllm(port_of(row))
    watching.take_up_all()
    target = selectors.serving_target("vllm")

    async def count() -> int:
        async with request_lease("vllm", "r1", target.token):
            return leases.in_flight("vllm")

    assert async_to_sync(count)() == 1
    assert leases.in_flight("vllm") == 0


def test_when_it_goes_away_the_backend_is_stopped_and_not_failed_and_it_may_come_back(
    backend: Make,
    foreign: Foreign,
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    observer = Observer()
    observe_until(observer, lambda: attached("vllm"), "attached")
    theirs.kill()
    observe_until(observer, lambda: now("vllm").state == State.STOPPED, "detached")
    row = now("vllm")
    assert (row.attached, row.failure, row.model, row.endpoint) == (False, "", "", "")
    assert Event.objects.filter(event="backend.detached").count() == 1
    assert not Event.objects.filter(event="backend.failed").exists()
    foreign.vllm(port_of(row), "another-model")
    observe_until(observer, lambda: attached("vllm"), "attached again")
    assert now("vllm").model == "another-model"


def test_a_restart_by_its_owner_shows_the_new_model(backend: Make, foreign: Foreign) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row), "first-model")
    observer = Observer()
    observe_until(observer, lambda: attached("vllm"), "attached")
    theirs.kill()
    theirs.wait()
    foreign.vllm(port_of(row), "second-model")
    observe_until(observer, lambda: now("vllm").model == "second-model", "the new model")


def test_another_program_on_the_port_afterwards_is_not_the_engine(
    backend: Make,
    foreign: Foreign,
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    observer = Observer()
    observe_until(observer, lambda: attached("vllm"), "attached")
    theirs.kill()
    theirs.wait()
    other = foreign.stranger(port_of(row))
    observe_until(observer, lambda: now("vllm").state == State.STOPPED, "detached")
    assert lives(other)


def test_an_attached_engine_that_hangs_is_degraded_and_stays_attached(
    backend: Make,
    foreign: Foreign,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backends.observer.PROBE_TIMEOUT", 0.1)
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    observer = Observer()
    observe_until(observer, lambda: attached("vllm"), "attached")
    os.kill(theirs.pid, signal.SIGSTOP)
    try:
        observe_until(observer, lambda: now("vllm").state == State.DEGRADED, "degraded")
        assert now("vllm").attached
    finally:
        os.kill(theirs.pid, signal.SIGCONT)
    observe_until(observer, lambda: attached("vllm"), "ready again")


def test_a_strangers_web_server_is_not_taken_for_an_engine(backend: Make, foreign: Foreign) -> None:
    for name in ("vllm", "ollama"):
        row = backend(name)
        foreign.stranger(port_of(row))
        assert watching.take_up(row) is None
        assert now(name).state == State.STOPPED


_PRETENDER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(answers.get(self.path, {})).encode()
        self.send_response(200 if self.path in answers else 404)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
answers = json.loads(sys.argv[2])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    "answers",
    [
        '{"/version": {"version": "1.0"}}',
        '{"/version": {"version": "1.0"}, "/v1/models": {"data": [{"id": "m", "owned_by": "llamacpp"}]}}',
        '{"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}',
        '{"/version": {"version": "1.0"}, "/v1/models": {"data": []}}',
        '{"/version": {"version": "1.0"}, "/v1/models": {"data": [7]}}',
    ],
)
def test_other_servers_of_openais_api_are_not_taken_for_vllm(answers: str) -> None:
    port = free_port()
    other = subprocess.Popen([sys.executable, "-c", _PRETENDER, str(port), answers])
    try:
        until(lambda: is_listening(port), "the pretender listens")
        assert VllmEngine().running(VllmOptions(port=port), timeout=5) is None
    finally:
        other.kill()
        other.wait()


def test_an_engine_is_attached_at_loopback_addresses_only(backend: Make, foreign: Foreign) -> None:
    row = backend("vllm", host="192.0.2.7")
    foreign.vllm(port_of(row))
    assert watching.take_up(row) is None


def test_a_vllm_that_wants_another_key_is_seen_and_not_attached(
    backend: Make, foreign: Foreign
) -> None:
    row = backend("vllm")
    foreign.vllm(port_of(row), "fake-model", "--api-key", "their-own-key")
    observer = Observer()
    observe_until(observer, lambda: selectors.server_facts("vllm"), "seen")
    assert now("vllm").state == State.STOPPED
    found = selectors.detect()["vllm"]
    assert not found["running"]
    assert "set its apiKey" in found["reason"]
    services.backend_configure(
        actor=Actor.system(), name="vllm", options={"apiKey": "their-own-key"}
    )
    observe_until(observer, lambda: attached("vllm"), "attached with the key")


# --- our own, found again -----------------------------------------------------------------------------


def test_a_start_of_ours_that_the_database_lost_is_adopted_and_not_attached(
    fake: Callable[..., FakeBackend], owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    from backends.engines.base import RunningServer

    def running(self: Any, options: Any, *, timeout: float) -> RunningServer | None:
        endpoint = f"http://127.0.0.1:{options.port}"
        return RunningServer(endpoint=endpoint, version="1.0", model="fake-model")

    monkeypatch.setattr(FakeEngine, "running", running)
    ours = fake()
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    ours.run()
    instance_id = ours.row.instance_id
    Backend.objects.filter(name="fake").update(
        state=State.STOPPED, instance_id="", endpoint="", model=""
    )
    observe_until(Observer(), lambda: ours.row.state == State.READY, "adopted")
    assert (ours.row.instance_id, ours.row.attached) == (instance_id, False)
    assert Event.objects.filter(event="backend.adopted").exists()
    assert not Event.objects.filter(event="backend.attached").exists()
    pids = ours.pids()
    assert run(services.backend_stop, owner_actor, "fake").state == "succeeded"
    assert pids
    assert ours.pids() == ()


# --- operations on an attached vLLM --------------------------------------------------------------------


def test_a_start_of_an_attached_vllm_does_nothing_but_make_it_the_active_one(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("vllm")
    backend("ollama")
    theirs = foreign.vllm(port_of(row))
    ended = run(services.backend_start, owner_actor, "vllm")
    assert ended.state == "succeeded", ended.error
    assert attached("vllm")
    assert supervisor.find(settings.MH_HOME, "vllm") == []
    assert lives(theirs)
    assert selectors.active_backend() == now("vllm")


def test_an_attached_vllm_is_not_given_another_model(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row), "their-model")
    ended = run(services.backend_start, owner_actor, "vllm", model="my-model")
    assert ended.state == "failed"
    assert ended.error
    assert ended.error["code"] == "attached"
    assert "serves their-model" in ended.error["message"]
    assert f"pid {theirs.pid}" in ended.error["message"]
    assert attached("vllm")


@pytest.mark.parametrize("ask", [services.backend_stop, services.backend_restart])
def test_stop_and_restart_of_an_attached_vllm_are_refused_at_once_and_say_whose_it_is(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
    ask: Callable[..., Operation],
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    watching.take_up_all()
    with pytest.raises(
        EngineAttached, match=f"started by somebody else .pid {theirs.pid}, user "
    ) as refused:
        ask(actor=owner_actor, name="vllm", foreground=True)
    assert (refused.value.status, refused.value.code) == (409, "attached")
    assert Event.objects.filter(event__contains="refused", target_id="vllm").exists()
    assert Operation.objects.count() == 0
    assert lives(theirs)


def test_stop_by_rest_is_409_and_the_engine_serves_on(
    backend: Make, foreign: Foreign, owner: User
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    observer = Observer()
    observe_until(observer, lambda: attached("vllm") and selectors.server_facts("vllm"), "attached")
    bus.worker_beat(settings.MH_NODE)
    client = Client()
    client.force_login(owner)
    answer = client.post("/api/llm-backend/vllm/stop")
    assert answer.status_code == 409, answer.content
    assert answer.json()["error"]["code"] == "attached"
    assert lives(theirs)


def test_a_stop_that_nobody_could_refuse_at_once_fails_and_the_engine_serves_on(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    watching.take_up_all()
    monkeypatch.setattr("backends.services.asking.refuse_if_others", lambda *_a, **_k: None)
    ended = run(services.backend_stop, owner_actor, "vllm")
    assert ended.state == "failed"
    assert ended.error
    assert ended.error["code"] == "attached"
    assert attached("vllm")
    assert lives(theirs)
    assert selectors.serving_target("vllm")


def test_a_switch_away_from_an_attached_vllm_is_refused_before_anything_is_touched(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row, other = backend("vllm"), backend("ollama")
    theirs = foreign.vllm(port_of(row))
    foreign.ollama(port_of(other))
    assert run(services.backend_start, owner_actor, "vllm").state == "succeeded"
    ended = run(services.backend_switch, owner_actor, "ollama")
    assert ended.state == "failed"
    assert ended.error
    assert ended.error["code"] == "attached"
    assert [step.name for step in ended.steps.all()] == ["preflight"]
    assert attached("vllm")
    assert lives(theirs)
    assert in_memory(port_of(other)) == []


def test_a_vllm_of_a_service_is_stopped_through_it(
    backend: Make,
    foreign: Foreign,
    systemd: Systemd,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = backend("vllm")
    theirs = foreign.vllm(port_of(row))
    systemd.unit("vllm-qwen.service", [], {}, pid=theirs.pid)
    monkeypatch.setattr(units, "_unit_in_cgroup", lambda _pid: units.Unit("vllm-qwen.service"))
    watching.take_up_all()
    ended = run(services.backend_stop, owner_actor, "vllm")
    assert ended.state == "succeeded", ended.error
    assert (now("vllm").state, now("vllm").attached) == (State.STOPPED, False)
    assert systemd.verbs() == ["stop"]
    assert systemd.calls()[-1][0] == "--no-ask-password"
    assert not lives(theirs)


# --- operations on an attached Ollama ---------------------------------------------------------------------


def test_an_attached_ollama_shows_the_model_in_memory_else_the_configured_one(
    backend: Make,
    foreign: Foreign,
) -> None:
    row = backend("ollama", model="configured:1b")
    foreign.ollama(port_of(row))
    observer = Observer()
    observe_until(observer, lambda: attached("ollama"), "attached")
    assert now("ollama").model == "configured:1b"
    load(port_of(row))
    observe_until(observer, lambda: now("ollama").model == MODEL, "the loaded model")


def test_a_start_of_an_attached_ollama_loads_the_model(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    fake_ollama.add_model(foreign.store, "other:1b")
    foreign.ollama(port_of(row))
    ended = run(services.backend_start, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert in_memory(port_of(row)) == [MODEL]
    ended = run(services.backend_start, owner_actor, "ollama", model="other:1b")
    assert ended.state == "succeeded", ended.error
    assert "other:1b" in in_memory(port_of(row))
    assert now("ollama").model == "other:1b"
    assert selectors.backend_options(now("ollama")).model == "other:1b"
    missing = run(services.backend_start, owner_actor, "ollama", model="missing:1b")
    assert missing.error
    assert missing.error["code"] == "model_not_found"
    assert [step.name for step in missing.steps.all()] == ["preflight"]


def test_a_stop_of_an_attached_ollama_unloads_its_models_and_says_that_it_stays(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    theirs = foreign.ollama(port_of(row))
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    ended = run(services.backend_stop, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert (now("ollama").state, now("ollama").attached) == (State.PARKED, True)
    assert in_memory(port_of(row)) == []
    assert lives(theirs)
    said = ended.steps.get(name="release").message
    assert "it stays" in said
    assert f"pid {theirs.pid}" in said
    with pytest.raises(BackendNotRunning):
        selectors.serving_target("ollama")
    observer = Observer()
    for _ in range(3):
        observer._next_probe = observer.watcher._next_find = observer.watcher._next_follow = 0
        observer.look()
    assert now("ollama").state == State.PARKED
    ended = run(services.backend_start, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert attached("ollama")
    assert in_memory(port_of(row)) == [MODEL]


def test_a_parked_ollama_that_goes_away_is_stopped(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    theirs = foreign.ollama(port_of(row))
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    assert run(services.backend_stop, owner_actor, "ollama").state == "succeeded"
    theirs.kill()
    observe_until(Observer(), lambda: now("ollama").state == State.STOPPED, "detached")
    assert not now("ollama").attached


def test_a_switch_parks_an_attached_ollama_and_a_switch_back_loads_it_again(
    backend: Make,
    fake: Callable[..., FakeBackend],
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row, ours = backend("ollama"), fake()
    theirs = foreign.ollama(port_of(row))
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    ended = run(services.backend_switch, owner_actor, "fake")
    assert ended.state == "succeeded", ended.error
    assert (now("ollama").state, now("ollama").attached) == (State.PARKED, True)
    assert in_memory(port_of(row)) == []
    assert ours.row.state == State.READY
    ended = run(services.backend_switch, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert attached("ollama")
    assert in_memory(port_of(row)) == [MODEL]
    assert ours.pids() == ()
    assert lives(theirs)


def test_a_switch_that_fails_has_the_attached_ollama_serve_again(
    backend: Make,
    fake: Callable[..., FakeBackend],
    foreign: Foreign,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    fake(arguments="--behaviour exit=error")
    foreign.ollama(port_of(row))
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    ended = run(services.backend_switch, owner_actor, "fake")
    assert ended.state == "rolled_back", ended.error
    assert attached("ollama")
    assert in_memory(port_of(row)) == [MODEL]
    assert selectors.serving_target("ollama")


def test_a_model_that_does_not_leave_memory_fails_the_stop_and_ollama_serves_on(
    backend: Make,
    foreign: Foreign,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = backend("ollama", stopTimeoutSeconds=1)
    foreign.ollama(port_of(row))
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    monkeypatch.setattr("backends.engines.ollama.client._ask_for_unload", lambda *_: "it is busy")
    ended = run(services.backend_stop, owner_actor, "ollama")
    assert ended.state == "failed"
    assert ended.error
    assert "still holds" in ended.error["message"]
    assert attached("ollama")
    assert selectors.serving_target("ollama")


# --- Ollama as a service ----------------------------------------------------------------------------------


def test_the_service_of_ollama_is_stopped_through_systemd_where_that_lets_us(
    backend: Make,
    foreign: Foreign,
    systemd: Systemd,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    theirs = foreign.ollama(port_of(row))
    systemd.ollama(foreign, port_of(row), pid=theirs.pid)
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    ended = run(services.backend_stop, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert (now("ollama").state, now("ollama").attached) == (State.STOPPED, False)
    assert not is_listening(port_of(row))
    assert systemd.verbs() == ["stop"]


def test_where_systemd_does_not_let_us_ollama_is_unloaded_and_stays(
    backend: Make,
    foreign: Foreign,
    systemd: Systemd,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    theirs = foreign.ollama(port_of(row))
    systemd.ollama(foreign, port_of(row), pid=theirs.pid, refuses=True)
    assert run(services.backend_start, owner_actor, "ollama").state == "succeeded"
    ended = run(services.backend_stop, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert (now("ollama").state, now("ollama").attached) == (State.PARKED, True)
    assert in_memory(port_of(row)) == []
    assert lives(theirs)
    assert "service ollama.service" in ended.steps.get(name="release").message


def test_a_stopped_service_is_how_ollama_is_started_where_it_is_enabled(
    backend: Make,
    foreign: Foreign,
    systemd: Systemd,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    systemd.ollama(foreign, port_of(row))
    ended = run(services.backend_start, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert attached("ollama")
    assert in_memory(port_of(row)) == [MODEL]
    assert systemd.verbs() == ["start"]
    assert supervisor.find(settings.MH_HOME, "ollama") == []
    assert run(services.backend_restart, owner_actor, "ollama").state == "succeeded"
    assert systemd.verbs() == ["start", "stop", "start"]
    assert run(services.backend_stop, owner_actor, "ollama").state == "succeeded"
    assert systemd.pid() == 0


@pytest.mark.parametrize("facts", [{"refuses": True}, {"state": "disabled"}])
def test_where_the_service_cannot_be_started_or_is_not_how_it_runs_ours_is(
    backend: Make, foreign: Foreign, systemd: Systemd, owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any],
) -> None:  # fmt: skip
    row = backend("ollama", modelsDir=str(foreign.store))
    binary = fake_ollama.make_binary(foreign.folder / "program" / "ollama")
    monkeypatch.setenv("MH_OLLAMA_BIN", str(binary))
    systemd.ollama(foreign, port_of(row), **facts)
    ended = run(services.backend_start, owner_actor, "ollama")
    assert ended.state == "succeeded", ended.error
    assert (now("ollama").state, now("ollama").attached) == (State.READY, False)
    assert len(supervisor.find(settings.MH_HOME, "ollama")) == 1


def test_neither_the_service_nor_our_own_says_both_reasons(
    backend: Make,
    foreign: Foreign,
    systemd: Systemd,
    owner_actor: Actor,
) -> None:
    row = backend("ollama")
    systemd.ollama(foreign, port_of(row), refuses=True)
    ended = run(services.backend_start, owner_actor, "ollama")
    assert ended.state == "failed"
    assert ended.error
    assert "Interactive authentication required" in ended.error["message"]
    assert "MH_OLLAMA_BIN" in ended.error["message"]
    assert (now("ollama").state, now("ollama").attached) == (State.FAILED, False)


def test_a_program_in_the_unit_of_another_is_not_stopped_with_it(
    foreign: Foreign,
    systemd: Systemd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = foreign.vllm(free_port())
    systemd.unit("cron.service", [], {}, pid=os.getpid())
    monkeypatch.setattr(units, "_unit_in_cgroup", lambda _pid: units.Unit("cron.service"))
    assert units.unit_of(theirs.pid, names=(), word="vllm") is None
    systemd.unit("vllm.service", [], {}, pid=os.getpid())
    monkeypatch.setattr(units, "_unit_in_cgroup", lambda _pid: units.Unit("vllm.service"))
    assert units.unit_of(theirs.pid, names=(), word="vllm") == units.Unit("vllm.service")


@pytest.mark.parametrize("name", ["--now.service", "a b.service", "x.socket", "../x.service"])
def test_nothing_but_the_name_of_a_service_reaches_systemctl(name: str, systemd: Systemd) -> None:
    assert units.facts(units.Unit(name)) is None
    assert systemd.calls() == []


# --- the end of the site --------------------------------------------------------------------------------


def test_the_end_of_the_site_leaves_attached_engines_alone(backend: Make, foreign: Foreign) -> None:
    departure = site_engines.Departure(site_engines.running_instances(), lambda _line: None)
    rows = backend("vllm"), backend("ollama")
    theirs = [foreign.vllm(port_of(rows[0])), foreign.ollama(port_of(rows[1]))]
    watching.take_up_all()
    assert attached("vllm")
    assert departure.stop(hurry=lambda: False)
    departure.kill()
    assert all(lives(process) for process in theirs)
    assert Operation.objects.count() == 0
