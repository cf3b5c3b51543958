"""An engine with vLLM's sleep mode inside the site: started, put to sleep, woken, on real processes."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from django.conf import settings

from backends import selectors, services, supervisor
from backends.engines import registry
from backends.engines.base import Engine, Target
from backends.errors import StopFailed
from backends.lifecycle import State
from backends.models import Backend
from tests.backends.conftest import FakeBackend, free_port

pytestmark = pytest.mark.process
Make = Callable[..., FakeBackend]


@pytest.fixture
def sleeper(
    transactional_db: None, clean_broker: Any, monkeypatch: pytest.MonkeyPatch, owner_actor: Any
) -> Iterator[Make]:
    """Make the backend ``sleeper`` with options, and start it."""
    from mh_fake_engine import SleeperEngine

    engines = {**registry.engines(), "sleeper": SleeperEngine()}
    monkeypatch.setattr(registry, "engines", lambda: engines)

    def make(**options: Any) -> FakeBackend:
        port = free_port()
        Backend.objects.create(
            name="sleeper",
            engine="sleeper",
            node=settings.MH_NODE,
            options={"port": port, **options},
            state_since=selectors.now(),
        )
        made = FakeBackend(name="sleeper", port=port)
        services.backend_start(actor=owner_actor, name="sleeper", foreground=True)
        made.run()
        assert made.row.state == State.READY, made.row.failure
        return made

    yield make
    for inst in supervisor.find(settings.MH_HOME, "sleeper"):
        supervisor.stop(inst, grace=0.2)


def engine_and_target(backend: FakeBackend) -> tuple[Engine, Target]:
    row = backend.row
    engine = selectors.backend_engine(row)
    options = selectors.backend_options(row)
    assert engine.can_park(options)
    return engine, Target(endpoint=row.endpoint, served_model=row.model, options=options)


@pytest.mark.parametrize("level", [1, 2])
def test_it_sleeps_as_deep_as_its_options_say_and_answers_again(sleeper: Make, level: int) -> None:
    backend = sleeper(sleepLevel=level)
    before = backend.pids()
    engine, target = engine_and_target(backend)
    engine.park(target, timeout=10)
    state = httpx.get(f"{target.endpoint}/_fake/state", trust_env=False).json()
    assert state["level"] == level
    assert engine.metrics(target, timeout=5).asleep is True
    engine.unpark(target, timeout=10)
    assert engine.metrics(target, timeout=5).asleep is False
    engine.warm_up(target, timeout=5)
    assert backend.pids() == before


def test_where_sleep_fails_the_caller_hears_it_and_can_stop_it(
    sleeper: Make, owner_actor: Any
) -> None:
    backend = sleeper(arguments="--behaviour sleep-fails")
    engine, target = engine_and_target(backend)
    with pytest.raises(StopFailed, match="500"):
        engine.park(target, timeout=10)
    services.backend_stop(actor=owner_actor, name="sleeper", foreground=True)
    backend.run()
    assert (backend.row.state, backend.pids()) == (State.STOPPED, ())
