"""The configuration is applied to what runs: nothing, a model loaded, or a restart that can be undone."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.models import User
from backends import bus, selectors, services
from backends.lifecycle import State
from backends.models import Operation, OperationState, StartKind, StartRecord
from tests.backends.conftest import FakeBackend
from tests.backends.test_change_model import OTHER, change, here, loaded, run, started, two_models
from tests.backends.test_operations import ended, wait_for
from tests.backends.test_switch import lose_the_runner, serves, step_names

__all__ = ["two_models"]
pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


def apply(actor: Actor, name: str = "fake", **options: Any) -> Operation:
    services.backend_configure(actor=actor, name=name, options=options)
    return services.backend_apply(actor=actor, name=name, foreground=True)


def test_nothing_changed_does_nothing(fake: Make, owner_actor: Actor) -> None:
    backend = started(fake, owner_actor)
    before = backend.pids()
    row = apply(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED
    assert step_names(row) == ["preflight", "commit"]
    assert backend.pids() == before


def test_an_option_that_needs_no_restart_counts_without_one(fake: Make, owner_actor: Actor) -> None:
    backend = started(fake, owner_actor)
    before = backend.pids()
    row = apply(owner_actor, parking="stop")
    backend.run()
    assert step_names(row) == ["preflight", "commit"]
    assert backend.pids() == before
    assert backend.row.started_options["parking"] == "stop"


def test_an_option_the_engine_reads_at_its_start_restarts_it_once(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    before = backend.pids()
    row = apply(owner_actor, arguments="--max-model-len 99")
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert "release" in step_names(row)
    after = backend.pids()
    assert after != before
    again = services.backend_apply(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    assert step_names(again) == ["preflight", "commit"]
    assert backend.pids() == after


def test_a_changed_secret_restarts_and_stands_nowhere_in_clear(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor, apiKey="the-old-secret")
    row = apply(owner_actor, apiKey="the-new-secret")
    target = selectors.serving_target("fake").target
    assert target.api_key == "the-old-secret", "what runs was started with that"
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert "release" in step_names(row)
    assert selectors.serving_target("fake").target.api_key == "the-new-secret"
    assert "new-secret" not in str(backend.row.started_options)
    again = apply(owner_actor, apiKey="the-new-secret")
    backend.run()
    assert step_names(again) == ["preflight", "commit"], "sealed anew, and the same"
    assert "$secrets" not in (ended(row).from_options or {})


def test_what_cannot_start_is_rolled_back_to_what_ran_before(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor, apiKey="the-old-secret")
    row = apply(owner_actor, arguments="--behaviour exit=error", apiKey="the-new-secret")
    backend.run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    assert "Fake engine serves fake-model again." in ended(row).error["message"]
    assert backend.row.state == State.READY
    assert selectors.serving_target("fake").target.api_key == "the-old-secret"
    assert backend.row.options["arguments"] == "--behaviour exit=error", "configured, to be mended"


def test_a_restart_that_fails_with_other_options_is_rolled_back(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    row = services.backend_restart(
        actor=owner_actor,
        name="fake",
        options={"arguments": "--behaviour exit=error"},
        foreground=True,
    )
    backend.run()
    assert ended(row).state == OperationState.ROLLED_BACK, ended(row).error
    serves(backend, "fake-model")


def test_a_plain_restart_that_fails_is_not_tried_twice(
    fake: Make, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    backend = started(fake, owner_actor)
    tried = []

    def fail(self: Any, target: Any, **_: Any) -> None:
        tried.append(target)
        raise ValueError("no answer")

    monkeypatch.setattr(FakeEngine, "warm_up", fail)
    row = services.backend_restart(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    assert ended(row).state == OperationState.FAILED
    assert len(tried) == 1
    assert backend.row.state == State.FAILED
    assert backend.pids() == ()


@pytest.mark.parametrize("at", ["drain", "release", "start", "warm", "commit"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_an_apply_whose_runner_died_is_resumed_or_undone(
    fake: Make,
    owner_actor: Actor,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    cancelled: bool,
) -> None:
    backend = started(fake, owner_actor)
    row = apply(owner_actor, arguments="--max-model-len 99")
    lose_the_runner(at, backend.run, monkeypatch)
    if cancelled:
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
    backend.run()
    assert ended(row).state == ("cancelled" if cancelled else "succeeded"), ended(row).error
    serves(backend, "fake-model")
    now = backend.row.started_options.get("arguments")
    assert now == (None if cancelled else "--max-model-len 99")


def test_ollama_gets_a_new_default_model_without_a_restart(
    two_models: Callable[..., int], owner_actor: Actor
) -> None:
    two_models()
    row = apply(owner_actor, "ollama", defaultModel=OTHER)
    run()
    assert "load" in step_names(row)
    assert (here().model, loaded()) == (OTHER, [OTHER])


def test_by_rest_what_runs_gets_an_apply_and_what_is_off_only_the_options(
    fake: Make, owner: User, owner_actor: Actor
) -> None:
    backend = fake()
    bus.worker_beat(settings.MH_NODE)
    client, url = Client(), "/api/llm-backend/fake/config"
    client.force_login(owner)
    body = {"options": {"drainSeconds": 1}, "apply": True}
    assert "operation" not in client.patch(url, body, "application/json").json()
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    worker = None
    asked = client.patch(url, body, "application/json").json()["operation"]
    assert (asked["kind"], asked["state"]) == ("apply", "queued")
    worker = backend.run_in_thread()
    answer = client.patch(f"{url}?wait=30", body, "application/json")
    worker.join(20)
    assert answer.status_code == 200
    assert answer.json()["operation"]["kind"] == "apply"


def test_a_start_with_other_options_of_what_runs_is_refused_and_not_ignored(
    fake: Make, owner_actor: Actor
) -> None:
    backend = started(fake, owner_actor)
    row = services.backend_start(
        actor=owner_actor, name="fake", options={"arguments": "--tokens 3"}, foreground=True
    )
    backend.run()
    assert ended(row).error["code"] == "already_running"
    assert "arguments" not in backend.row.options


def test_options_changed_during_a_start_are_for_the_next_one(
    fake: Make, owner_actor: Actor
) -> None:
    backend = fake(arguments="--start-delay 1")
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    worker = backend.run_in_thread()
    wait_for(backend.pids)
    services.backend_configure(
        actor=owner_actor, name="fake", options={"model": "other-model", "port": backend.port + 1}
    )
    worker.join(20)
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    serves(backend, "fake-model")


def test_how_long_starts_take_is_learnt_by_model_and_by_way(fake: Make, owner_actor: Actor) -> None:
    backend = started(fake, owner_actor)
    record = StartRecord.objects.get()
    assert (record.kind, record.model) == (StartKind.COLD, "fake-model")
    assert record.version == backend.row.version
    assert 0 < record.seconds < 60
    for model, spans in (("fake-model", (1, 2, 3, 4, 5)), ("other-model", (50, 60, 70))):
        for seconds in spans:
            services.start_keep(
                name="fake", kind=StartKind.COLD, model=model, options={}, seconds=seconds
            )
    expected = selectors.start_seconds_expected
    assert expected(backend.row, "start") == 3
    assert expected(backend.row, "switch", "other-model") == 60
    assert expected(backend.row, "start", "a-new-model") == 50, "the last five, of any model"
    row = change(owner_actor, "other-model")
    assert row.eta_seconds == 60
    backend.run()
