"""Cloud accounts through a whole site: waits, answers, fallback, and jobs that end with their client."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from backends.ports import free_port
from tests.backends.faults.table import fault
from tests.fakes.cloud import WORDS
from tests.router.live import REPOSITORY, Site, wait_until
from tests.router.test_live_http import FRANCE, events

pytestmark = pytest.mark.process

TEXT = "".join(WORDS)
KEY = "key-of-the-tests"
SETUP = """
from backends import secrets
from router.models import ModelEntry, ProviderAccount, Role, RoleLink
accounts = {
    "runpod": {"endpointId": "demo", "mode": "queue", "apiUrl": "%(runpod)s/v2", "pollMin": 0.02, "pollMax": 0.05},
    "huggingface": {"endpointUrl": "%(hf)s/endpoint", "scaleUpTimeout": 20},
}
for name, settings in accounts.items():
    sealed = secrets.seal({"apiKey": "%(key)s"})
    ProviderAccount.objects.update_or_create(name=name, defaults={"kind": name, "settings": settings, "secrets": sealed})
    ModelEntry.objects.update_or_create(id="cloud." + name, defaults={"provider": name, "model": "tgi"})
role, _ = Role.objects.get_or_create(name="clouds")
for place, name in enumerate(accounts):
    RoleLink.objects.get_or_create(role=role, entry_id="cloud." + name, defaults={"position": place})
"""
MODE = """
from accounts.actors import Actor
from router.services import deployment_import
deployment_import(actor=Actor.system(), data=%r)
"""
#: The site is other tests' as well.
CLEAN_UP = """
from router.models import ModelEntry, ProviderAccount, Role
Role.objects.filter(name="clouds").delete()
ModelEntry.objects.filter(id__in=["cloud.runpod", "cloud.huggingface"]).delete()
ProviderAccount.objects.filter(name__in=["runpod", "huggingface"]).delete()
"""


@dataclass
class Fake:
    """A fake cloud, a process."""

    url: str
    client: httpx.Client

    def behave(self, *behaviour: str) -> None:
        answer = self.client.post(f"{self.url}/_fake/behaviour", json={"behaviour": behaviour})
        answer.raise_for_status()

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"{self.url}/_fake/state").json()
        return found

    def jobs(self, since: int) -> list[str]:
        return [job["status"] for job in self.state()["jobs"][since:]]


@dataclass
class Clouds:
    """A site with accounts at both."""

    site: Site
    runpod: Fake
    hf: Fake

    def ask(self, model: str, path: str = "/api/chat", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": FRANCE, **more}
        with httpx.Client(trust_env=False, timeout=30, headers=self.site.auth) as client:
            return client.post(f"{self.site.url}{path}", json=body)


@contextlib.contextmanager
def fake(module: str) -> Iterator[Fake]:
    port = free_port()
    command = [sys.executable, "-m", f"tests.fakes.{module}", "--port", str(port), "--key", KEY]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        with httpx.Client(trust_env=False, timeout=10) as client:
            found = Fake(f"http://127.0.0.1:{port}", client)
            wait_until(found.state, seconds=60, what=f"the start of {module}")
            yield found
    finally:
        process.terminate()
        process.wait(8)


@pytest.fixture(scope="module")
def set_up(running_site: Site) -> Iterator[Clouds]:
    with fake("fake_runpod") as runpod, fake("fake_huggingface") as hf:
        running_site.manage(SETUP % {"runpod": runpod.url, "hf": hf.url, "key": KEY})
        yield Clouds(running_site, runpod, hf)
        running_site.manage(CLEAN_UP)


@pytest.fixture
def clouds(set_up: Clouds) -> Clouds:
    set_up.runpod.behave()
    set_up.hf.behave()
    return set_up


@pytest.fixture
def server_mode(clouds: Clouds) -> Iterator[Clouds]:
    """The site as ``etc/deployment.json`` has it where nothing runs on this machine."""
    account = {
        "apiKey": KEY,
        "endpoints": {"default": "demo"},
        "mode": "queue",
        "apiUrl": f"{clouds.runpod.url}/v2",
        "pollMin": 0.02,
        "pollMax": 0.05,
    }
    file = {
        "version": "1.0.0",
        "mode": "server",
        "server": {"provider": "runpod", "runpod": account},
    }
    clouds.site.manage(MODE % file)
    yield clouds
    clouds.site.manage(MODE % {**file, "mode": "local"})


def test_in_server_mode_the_server_answers_for_local_models_on_every_surface(
    server_mode: Clouds,
) -> None:
    clouds = server_mode
    with httpx.Client(
        base_url=clouds.site.url, trust_env=False, timeout=30, headers=clouds.site.auth
    ) as client:
        assert client.get("/api/llm-backend/status").json()["deployment_mode"] == "server"
        before = clouds.site.engine.state()["started"]
        jobs = clouds.runpod.state()["submitted"]
        # A role, a model of the registry, and whatever is active: all name a local provider, or none.
        for asked in ({"role": "persona"}, {"model": "default.coder"}, {}):
            answer = client.post("/api/chat", json={"messages": FRANCE, **asked}).json()
            assert (answer["content"], answer["provider"], answer["backend"]) == (
                TEXT,
                "runpod",
                None,
            )
        for stream in (False, True):
            body = {"model": "role:persona", "messages": FRANCE, "stream": stream}
            whole = client.post("/v1/chat/completions", json=body)
            choices = [whole.json()] if not stream else events(whole)
            said = [row["choices"][0].get("message" if not stream else "delta") for row in choices]
            assert "".join(message.get("content") or "" for message in said) == TEXT
            ollama = client.post("/ollama/api/chat", json={**body, "stream": False}).json()
            assert ollama["message"]["content"] == TEXT
        with connect(
            clouds.site.websocket, additional_headers=clouds.site.auth, proxy=None
        ) as socket:
            socket.send(
                json.dumps({"type": "chat", "id": "a", "role": "persona", "messages": FRANCE})
            )
            frames = [json.loads(socket.recv(20))]
            while frames[-1]["type"] not in {"done", "error"}:
                frames.append(json.loads(socket.recv(20)))
        assert "".join(frame.get("content", "") for frame in frames) == TEXT
        assert clouds.runpod.state()["submitted"] == jobs + 8
        # A cloud model stays where it is, and nobody has asked the local engine.
        answer = clouds.ask("cloud.huggingface").json()
        assert (answer["content"], answer["provider"]) == (TEXT, "huggingface")
        assert clouds.runpod.state()["submitted"] == jobs + 8
        assert clouds.site.engine.state()["started"] == before


def test_in_server_mode_a_server_that_fails_is_an_error_and_not_the_local_engine(
    server_mode: Clouds,
) -> None:
    clouds = server_mode
    before = clouds.site.engine.state()["started"]
    clouds.runpod.behave("fail=out of memory")
    response = clouds.ask("role:persona", "/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (502, "job_failed")
    assert clouds.site.engine.state()["started"] == before


def test_a_model_whose_provider_constrains_nothing_is_told_the_format_over_v1_too(
    clouds: Clouds,
) -> None:
    wanted = {"type": "json_object"}
    jobs = len(clouds.runpod.state()["jobs"])
    response = clouds.ask("cloud.runpod", "/v1/chat/completions", response_format=wanted)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "format_not_followed")
    sent = [job["input"]["messages"] for job in clouds.runpod.state()["jobs"][jobs:]]
    assert [messages[0]["role"] for messages in sent] == ["system", "system"]
    assert "JSON object" in sent[0][0]["content"]
    assert "does not have the format" in sent[1][-1]["content"]


def test_a_cold_start_is_told_to_the_client_and_then_answered(clouds: Clouds) -> None:
    clouds.runpod.behave("cold=5")
    found = events(clouds.ask("cloud.runpod", stream=True))
    queued = [event for event in found if event["type"] == "queued"]
    assert queued[0]["reason"] == "a RunPod worker is starting"
    assert "".join(event["content"] for event in found if event["type"] == "token") == TEXT
    assert found[-1]["type"] == "done"


def test_an_endpoint_that_loads_is_told_to_the_client_and_then_answers(clouds: Clouds) -> None:
    clouds.hf.behave("loading=2")
    found = events(clouds.ask("cloud.huggingface", stream=True))
    assert "queued" in [event["type"] for event in found]
    assert "".join(event["content"] for event in found if event["type"] == "token") == TEXT


def test_openais_api_passes_through_to_an_endpoint(clouds: Clouds) -> None:
    answer = clouds.ask("cloud.huggingface", "/v1/chat/completions").json()
    assert answer["choices"][0]["message"]["content"] == TEXT


@fault(24)
@pytest.mark.parametrize("habit", ["stuck", "endless"])
def test_a_client_that_leaves_ends_its_job(clouds: Clouds, habit: str) -> None:
    clouds.runpod.behave(habit)
    since = len(clouds.runpod.state()["jobs"])
    body = {"model": "cloud.runpod", "messages": FRANCE, "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=30, headers=clouds.site.auth) as client,
        client.stream("POST", f"{clouds.site.url}/api/chat", json=body) as response,
    ):
        wanted = "queued" if habit == "stuck" else "token"
        next(line for line in response.iter_lines() if f'"{wanted}"' in line)
    ended = ["CANCELLED"]
    wait_until(lambda: clouds.runpod.jobs(since) == ended, seconds=2, what="the end of the job")


def test_a_job_that_failed_is_not_run_again_and_the_next_of_the_chain_answers(
    clouds: Clouds,
) -> None:
    clouds.runpod.behave("fail=out of memory")
    since = len(clouds.runpod.state()["jobs"])
    with httpx.Client(trust_env=False, timeout=30, headers=clouds.site.auth) as client:
        body = {"role": "clouds", "messages": FRANCE}
        answer = client.post(f"{clouds.site.url}/api/chat", json=body).json()
    assert (answer["content"], answer["provider"]) == (TEXT, "huggingface")
    assert clouds.runpod.jobs(since) == ["FAILED"]


@fault(42)
@pytest.mark.parametrize("habit", ["run-cut", "run-status=502", "ends=TIMED_OUT", "forget"])
def test_a_job_that_may_have_run_is_never_sent_twice(clouds: Clouds, habit: str) -> None:
    clouds.runpod.behave(habit, "endless")
    before = clouds.runpod.state()["submitted"]
    response = clouds.ask("cloud.runpod")
    assert response.status_code in {502, 504}
    assert "Traceback" not in json.dumps(response.json())
    assert clouds.runpod.state()["submitted"] == before + 1
