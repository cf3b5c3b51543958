"""Operations asked for on the command line, run in the foreground on a real (fake) engine."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings

from backends import selectors, supervisor
from backends.engines import registry
from backends.models import Backend, Operation
from backends.ports import free_port
from mhsite import cli
from mhsite.processes import boot
from tests.mhsite.test_up import until


@pytest.fixture
def fake(
    transactional_db: None, clean_broker: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """The backend ``fake`` on a port of its own; what it started is stopped at the end."""
    from mh_fake_engine import FakeEngine, OtherFakeEngine

    engines = {"fake": FakeEngine(), "fake2": OtherFakeEngine()}
    monkeypatch.setattr(registry, "engines", lambda: engines)
    monkeypatch.setattr(boot, "call_command", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(boot, "SETTINGS_FILES", ())
    monkeypatch.setenv("MH_OWNER_PASSWORD", "pw-of-the-owner")

    def make(**options: Any) -> str:
        boot.database_prepare()
        options.setdefault("port", free_port())
        Backend.objects.filter(name="fake").update(options=options, node=settings.MH_NODE)
        Backend.objects.filter(name="fake2").update(options={"port": free_port()})
        return "fake"

    yield make
    Operation.objects.update(cancel_requested=True)
    for name in ("fake", "fake2"):
        for instance in supervisor.find(settings.MH_HOME, name):
            supervisor.stop(instance, grace=0.2)


@pytest.mark.process
def test_a_switch_says_what_the_contract_shows(
    fake: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = fake()
    assert cli.run(["backend", "start", name]) == 0
    capfd.readouterr()
    assert cli.run(["backend", "switch", "fake2"]) == 0
    out, _ = capfd.readouterr()
    assert out.splitlines() == [
        "Switching backend from fake to fake2...",
        "Stopping Fake engine...",
        "Starting Other fake with fake-model...",
        "Backend switched to fake2",
    ]
    assert cli.run(["backend", "switch", "fake2"]) == 0
    assert capfd.readouterr().out == "Backend switched to fake2\n"
    assert cli.run(["backend", "switch", "fake", "--model", "other-model", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["state"], answer["from_backend"]) == ("succeeded", "fake2")


@pytest.mark.process
def test_a_switch_that_fails_goes_back_and_ends_with_1(
    fake: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = fake()
    Backend.objects.filter(name="fake2").update(
        options={"port": free_port(), "arguments": "--behaviour exit=error"}
    )
    assert cli.run(["backend", "start", name]) == 0
    capfd.readouterr()
    assert cli.run(["backend", "switch", "fake2"]) == 1
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "Going back to Fake engine..."
    assert "Fake engine serves fake-model again." in err
    assert cli.run(["backend", "switch", "nope"]) == 1


@pytest.mark.process
def test_without_a_worker_an_engine_is_started_and_stopped_in_the_foreground(
    fake: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = fake()
    assert cli.run(["backend", "start", name, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["state"] == "ready"
    assert cli.run(["backend", "status"]) == 0
    assert capfd.readouterr().out.startswith("Fake engine Status: Running\n")
    assert cli.run(["backend", "stop", name]) == 0
    out, err = capfd.readouterr()
    assert out == "Fake engine is stopped.\n"
    assert "release" in err, "steps are told on standard error"
    assert supervisor.find(settings.MH_HOME, name) == []
    assert cli.run(["backend", "status"]) == 3


@pytest.mark.process
def test_a_failed_start_says_why_and_ends_with_1(
    fake: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = fake(model="missing")
    assert cli.run(["backend", "start", name]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert "There is no model 'missing' here." in err
    assert cli.run(["backend", "start", name, "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["error"]["code"]


@pytest.mark.process
def test_ctrl_c_cancels_the_start(
    fake: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = fake(arguments="--start-delay 60")

    def interrupt() -> None:
        until(lambda: supervisor.find(settings.MH_HOME, name), 20, "an engine that starts")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert cli.run(["backend", "start", name]) == 1
    thread.join()
    assert "cancelled" in capfd.readouterr().err
    assert supervisor.find(settings.MH_HOME, name) == []
    assert selectors.operation_list(1)[0].state == "cancelled"
