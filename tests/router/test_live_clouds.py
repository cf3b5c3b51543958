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

from tests.backends.faults.table import fault
from tests.fakes.cloud import WORDS
from tests.router.live import REPOSITORY, Site, free_port, wait_until
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


@pytest.mark.parametrize("habit", ["run-cut", "run-status=502", "ends=TIMED_OUT", "forget"])
def test_a_job_that_may_have_run_is_never_sent_twice(clouds: Clouds, habit: str) -> None:
    clouds.runpod.behave(habit, "endless")
    before = clouds.runpod.state()["submitted"]
    response = clouds.ask("cloud.runpod")
    assert response.status_code in {502, 504}
    assert "Traceback" not in json.dumps(response.json())
    assert clouds.runpod.state()["submitted"] == before + 1
