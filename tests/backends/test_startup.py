"""What the site does once when it comes up: which backend is active, what is started, what is left alone."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.conf import settings

from accounts.actors import Actor
from audit.models import Event
from backends import booting, bus, selectors, services, supervisor
from backends.booting import Startup
from backends.lifecycle import State
from backends.models import Backend, Operation, Switchboard
from backends.ports import free_port
from tests.backends.conftest import FakeBackend
from tests.backends.foreign import Foreign

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


@pytest.fixture
def site(clean_broker: "redis.Redis") -> Callable[[str], Startup]:
    """Say what the site's configuration says, have its worker live, and let it come up."""

    def come_up(behavior: str, active: str = "fake") -> Startup:
        Switchboard.objects.update_or_create(
            pk=1, defaults={"startup_behavior": behavior, "active_backend_id": active}
        )
        bus.worker_beat(settings.MH_NODE)
        return Startup(boot=booting.new_boot())

    return come_up


def auto_start(*names: str) -> None:
    Backend.objects.filter(name__in=names).update(auto_start=True)


def apply(startup: Startup, backend: FakeBackend) -> None:
    """Tick until all is done, with the worker's part between."""
    for _ in range(6):
        bus.worker_beat(settings.MH_NODE)
        if startup.tick():
            return
        backend.run()
    pytest.fail("the start-up did not end")


def asked() -> list[tuple[str, str, str]]:
    return list(Operation.objects.order_by("created_at").values_list("kind", "backend_id", "state"))


def active() -> str | None:
    return selectors.startup()["active"]


def test_the_named_backend_becomes_active_and_is_started_where_auto_start_says_so(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake()
    fake("fake2")
    auto_start("fake")
    apply(site("fake", active="fake2"), backend)
    assert active() == "fake"
    assert backend.row.state == State.READY
    assert asked() == [("start", "fake", "succeeded")]
    operation = Operation.objects.get()
    assert (operation.requested_by, operation.requested_by_name) == (None, "system")


def test_without_auto_start_it_only_becomes_active(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake()
    fake("fake2")
    apply(site("fake2"), backend)
    assert (active(), asked()) == ("fake2", [])


def test_auto_takes_the_one_that_runs_and_starts_nothing(
    fake: Make, site: Callable[..., Startup], owner_actor: Actor
) -> None:
    fake()
    running = fake("fake2")
    services.backend_start(actor=owner_actor, name="fake2", foreground=True)
    running.run()
    auto_start("fake", "fake2")
    before = len(asked())
    apply(site("auto"), running)
    assert active() == "fake2"
    assert len(asked()) == before


def test_it_is_applied_once_per_run_of_the_site_also_by_an_observer_that_was_restarted(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake()
    auto_start("fake")
    startup = site("fake")
    assert not startup.tick()
    again = Startup(boot=startup.boot)  # the observer died while the start was under way
    assert not again.tick()
    backend.run()
    apply(again, backend)
    services.backend_stop(actor=Actor.system(), name="fake", foreground=True)
    backend.run()
    later = Startup(boot=startup.boot)
    assert later.tick()
    assert backend.row.state == State.STOPPED
    assert [kind for kind, _, _ in asked()] == ["start", "stop"]


def test_what_a_person_asked_for_since_counts_more(
    fake: Make, site: Callable[..., Startup], owner_actor: Actor
) -> None:
    backend = fake()
    fake("fake2")
    auto_start("fake2")
    startup = site("fake2")
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    assert startup.tick()
    backend.run()
    assert asked() == [("start", "fake", "succeeded")]
    assert active() == "fake"


def test_it_waits_for_the_worker_and_does_nothing_outside_of_a_run_of_the_site(
    fake: Make, site: Callable[..., Startup]
) -> None:
    fake()
    auto_start("fake")
    startup = site("fake")
    bus.worker_gone(settings.MH_NODE)
    assert not startup.tick()
    assert asked() == []
    assert Startup(boot="").tick()


def test_fallback_goes_on_to_the_other_when_the_start_of_the_configured_one_fails(
    fake: Make, site: Callable[..., Startup]
) -> None:
    broken = fake(arguments="--behaviour exit=error")
    other = fake("fake2")
    auto_start("fake")
    apply(site("fallback"), other)
    assert asked() == [("start", "fake", "failed"), ("start", "fake2", "succeeded")]
    assert (active(), other.row.state, broken.row.state) == ("fake2", State.READY, State.FAILED)


def test_fallback_ends_with_a_clear_event_when_every_start_fails(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake(arguments="--behaviour exit=error")
    fake("fake2", arguments="--behaviour exit=error")
    auto_start("fake")
    apply(site("fallback"), backend)
    assert [state for _, _, state in asked()] == ["failed", "failed"]
    event = Event.objects.get(event="switchboard.startup_failed")
    assert "fake, fake2 failed" in event.message


def test_a_failed_start_is_not_followed_by_another_outside_of_fallback(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake(arguments="--behaviour exit=error")
    fake("fake2")
    auto_start("fake", "fake2")
    apply(site("fake"), backend)
    assert asked() == [("start", "fake", "failed")]


def test_fallback_takes_the_other_where_the_configured_one_is_not_installed(
    fake: Make, site: Callable[..., Startup], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine, OtherFakeEngine

    from backends.engines.base import Detection

    backend = fake()
    fake("fake2")
    monkeypatch.setattr(
        FakeEngine,
        "detect",
        lambda self: Detection(installed=isinstance(self, OtherFakeEngine), reason="not there"),
    )
    apply(site("fallback"), backend)
    assert (active(), asked()) == ("fake2", [])


def test_a_behaviour_that_names_nothing_here_changes_nothing_and_says_so(
    fake: Make, site: Callable[..., Startup]
) -> None:
    backend = fake()
    apply(site("ollama"), backend)
    assert active() == "fake"
    assert "names ollama" in Event.objects.get(event="switchboard.startup_failed").message


def test_an_engine_that_somebody_else_runs_is_attached_and_not_started_twice(
    fake: Make, site: Callable[..., Startup], foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MH_VLLM_PYTHON", "/nonexistent/python")
    backend = fake()
    port = free_port()
    options: dict[str, Any] = {"port": port, "model": "fake-model"}
    Backend.objects.create(
        name="vllm", engine="vllm", node=settings.MH_NODE, options=options, auto_start=True,
        state_since=selectors.now(),
    )  # fmt: skip
    theirs = foreign.vllm(port)
    apply(site("auto"), backend)
    row = Backend.objects.get(name="vllm")
    assert (active(), row.attached, row.state) == ("vllm", True, State.READY)
    assert asked() == []
    assert supervisor.find(settings.MH_HOME, "vllm") == []
    assert theirs.poll() is None


def test_mh_up_names_its_run_for_the_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    name = booting.new_boot()
    monkeypatch.setenv(booting.BOOT_VARIABLE, name)
    assert Startup().boot == os.environ["MH_BOOT"] == name
    assert booting.new_boot() != name
