"""Does it fit, asked by people and by every preflight: on a real (fake) engine that says what it needs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.test import Client

from accounts.actors import Actor
from accounts.models import User
from audit.models import Event
from backends import bus, plan_reading, selectors, services, supervisor
from backends.engines.estimates import Estimate, Levers
from backends.errors import InvalidOptions, UnknownBackend, UnknownModel
from backends.gpu import Gpu, GpuProcess
from backends.lifecycle import State
from backends.models import Backend, Operation, OperationState, StartRecord
from backends.observer import Observer
from backends.planning import Machine, Verdict
from tests.backends.conftest import FakeBackend
from tests.backends.test_operations import ended

GIB = 2**30
Make = Callable[..., FakeBackend]
Needs = Callable[..., None]
LITTLE = Estimate(
    model="fake-model", device="cpu", weights=1, other=1, memory_options=frozenset({"arguments"})
)
HUGE = replace(LITTLE, weights=1 << 60, levers=Levers(smaller_weights="a 4-bit build"))


@pytest.fixture
def needs(monkeypatch: pytest.MonkeyPatch) -> Needs:
    """Make the fake engines say what they need, by their model's name."""

    def set_needs(**by_model: Estimate) -> None:
        from mh_fake_engine import FakeEngine

        def estimate(_self: Any, options: Any) -> Estimate | None:
            return by_model.get(options.model.replace("-", "_"))

        monkeypatch.setattr(FakeEngine, "estimate", estimate)

    return set_needs


@pytest.fixture
def as_owner(owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


def post(client: Client, name: str, **body: Any) -> Any:
    return client.post(f"/api/llm-backend/{name}/plan", body, "application/json")


# --- asked ------------------------------------------------------------------------------------------


def test_the_plan_over_rest_changes_nothing(fake: Make, needs: Needs, as_owner: Client) -> None:
    fake()
    needs(fake_model=LITTLE)
    before = Event.objects.count()
    answer = post(as_owner, "fake")
    assert answer.status_code == 200
    plan = answer.json()
    assert (plan["verdict"], plan["memory"], plan["needed"]) == ("fits", "host", 2)
    assert plan["free"] > 0
    assert plan["suggestions"] == []
    assert Operation.objects.count() == 0
    assert Event.objects.count() == before


def test_a_plan_that_does_not_fit_is_an_answer_and_no_error(
    fake: Make, needs: Needs, as_owner: Client
) -> None:
    fake()
    needs(other_model=HUGE)
    plan = post(as_owner, "fake", model="other-model").json()
    assert (plan["verdict"], plan["certain"]) == ("does_not_fit", True)
    assert "1073741824.0 GiB" in plan["because"]


def test_bad_requests_say_what_is_wrong(fake: Make, as_owner: Client) -> None:
    fake()
    for body, status, param in (
        ({"options": {"nonsense": 1}}, 422, "options.nonsense"),
        ({"options": {"port": "x"}}, 422, "options.port"),
        ({"model": "nosuch"}, 404, "model"),
        ({"extra": 1}, 422, "extra"),
    ):
        answer = post(as_owner, "fake", **body)  # type: ignore[arg-type]
        assert answer.status_code == status, answer.content
        assert answer.json()["error"]["param"] == param
    assert "fake-model" in post(as_owner, "fake", model="nosuch").json()["error"]["message"]
    assert post(as_owner, "nosuch").status_code == 404


def test_a_selector_raises_what_a_view_answers(fake: Make) -> None:
    fake()
    with pytest.raises(UnknownBackend):
        selectors.backend_plan("nosuch")
    with pytest.raises(UnknownModel):
        selectors.backend_plan("fake", "nosuch")
    with pytest.raises(InvalidOptions):
        selectors.backend_plan("fake", options={"port": 0})


def test_an_engine_that_cannot_say_or_fails_to_is_unknown(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    fake()
    assert selectors.backend_plan("fake").verdict == Verdict.UNKNOWN

    def broken(_self: Any, _options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeEngine, "estimate", broken)
    found = selectors.backend_plan("fake")
    assert (found.verdict, found.refused) == (Verdict.UNKNOWN, False)


def test_memory_is_what_the_observer_saw_and_else_what_is_there(fake: Make, needs: Needs) -> None:
    fake()
    needs(fake_model=LITTLE)
    now = selectors.backend_plan("fake")
    assert now.free is not None
    assert abs(now.free - psutil.virtual_memory().available) < 4 * GIB
    memory = {"total": 9 * GIB, "available": 7, "swap_free": 0}
    bus.snapshot_write(settings.MH_NODE, {"memory": memory, "gpus": [], "backends": {}})
    assert selectors.backend_plan("fake").free == 7


def test_the_observer_publishes_what_a_plan_needs(fake: Make) -> None:
    fake()
    Observer().look()
    seen = plan_reading.machine_seen(bus.snapshot_read(settings.MH_NODE) or {}, [])
    assert seen is not None
    assert seen.total == psutil.virtual_memory().total


def test_of_another_machine_that_nobody_observes_nothing_is_known(fake: Make, needs: Needs) -> None:
    fake()
    needs(fake_model=LITTLE)
    Backend.objects.update(node="elsewhere")
    assert selectors.backend_plan("fake").verdict == Verdict.UNKNOWN


def test_gpu_memory_is_told_by_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        Gpu(0, "A", "u0", 24 * GIB, 20 * GIB, 0, (GpuProcess(7, GIB), GpuProcess(8, GIB), GpuProcess(9, 5))),
        Gpu(1, None, None, None, None, None, (GpuProcess(7, None),)),
    ]  # fmt: skip
    monkeypatch.setattr(plan_reading.gpu, "gpus", lambda: cards)
    trees: dict[str, tuple[int, ...]] = {"vllm": (7, 8), "ollama": ()}
    found = plan_reading.machine_now(trees, {"vllm": 3}, ["vllm"])
    assert found.gpus[0].held == {"vllm": 2 * GIB}
    assert (found.gpus[0].free, found.gpus[1].free) == (4 * GIB, None)
    assert found.gpus[1].held == {"vllm": None}
    assert found.gpus[1].freed(["vllm"]) is None
    assert found.held == {"vllm": 3}
    attached = plan_reading.machine_now({}, {}, ["ollama"])
    assert attached.gpus[0].freed(["ollama"]) is None, "it runs, and no GPU says what it holds"
    assert attached.freed(["ollama"]) is None


def record(backend: FakeBackend, host: int | None, **options: Any) -> None:
    StartRecord.objects.create(
        backend=backend.row,
        model="fake-model",
        options={"port": 1, **options},
        seconds=1.0,
        peak_host_bytes=host,
        created_at=selectors.now(),
    )


def test_the_newest_start_with_the_same_options_corrects_the_estimate(
    fake: Make, needs: Needs
) -> None:
    backend = fake()
    needs(fake_model=LITTLE)
    record(backend, 100)
    record(backend, 1000)
    record(backend, 5000, arguments="--other")
    record(backend, 7000, model="other-model")
    record(backend, None)
    found = selectors.backend_plan("fake")
    assert (found.measured, found.needed) == (True, 1050)
    assert selectors.backend_plan("fake", options={"arguments": "--other"}).needed == 5250
    assert not selectors.backend_plan("fake", options={"arguments": "--new"}).measured


# --- part of every preflight ------------------------------------------------------------------------


@pytest.mark.process
def test_a_start_that_cannot_fit_is_refused_with_the_numbers(
    fake: Make, needs: Needs, owner_actor: Actor
) -> None:
    backend = fake()
    needs(fake_model=HUGE)
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    error = ended(row).error
    assert (ended(row).state, error["code"]) == (OperationState.FAILED, "does_not_fit")
    assert "1073741824.0 GiB" in error["message"]
    assert backend.row.state == State.STOPPED
    assert backend.pids() == ()


@pytest.mark.process
def test_a_switch_to_what_cannot_fit_leaves_what_runs_alone(
    fake: Make, needs: Needs, owner_actor: Actor
) -> None:
    old, new = fake(), fake("fake2", model="other-model")
    needs(fake_model=LITTLE, other_model=HUGE)
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    old.run()
    pids = old.pids()
    row = services.backend_switch(actor=owner_actor, name="fake2", foreground=True)
    new.run()
    assert ended(row).error["code"] == "does_not_fit"
    assert old.row.state == State.READY
    assert old.pids() == pids
    assert next(step.name for step in ended(row).steps.all()) == "preflight"


@pytest.mark.process
def test_a_switch_and_a_restart_count_what_they_release(
    fake: Make, needs: Needs, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is available; all there is, is what the one that leaves holds."""
    old = fake()
    fake("fake2")
    needs(fake_model=replace(LITTLE, weights=20, other_least=5))
    services.backend_start(actor=owner_actor, name="fake", foreground=True)
    old.run()
    held = Machine(total=100, available=0, held={"fake": 50})
    monkeypatch.setattr(selectors, "machine_now", lambda _node: held)
    for ask in (services.backend_restart, services.backend_switch):
        name = "fake" if ask is services.backend_restart else "fake2"
        row = ask(actor=owner_actor, name=name, foreground=True)
        old.run()
        assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert len(supervisor.find(settings.MH_HOME, "fake2")) == 1


@pytest.mark.process
def test_what_is_unknown_or_only_likely_is_tried(
    fake: Make, needs: Needs, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = fake()
    needs(fake_model=replace(LITTLE, other=100, other_least=5))
    monkeypatch.setattr(selectors, "machine_now", lambda _node: Machine(total=100, available=50))
    assert selectors.plan_of(
        backend.row,
        selectors.backend_options(backend.row),
        leaving=[],
        machine=selectors.machine_now(""),
    ).verdict == (Verdict.DOES_NOT_FIT)
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error


@pytest.mark.process
def test_an_engine_that_loads_no_model_at_its_start_is_started(
    fake: Make, needs: Needs, owner_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    backend = fake()
    needs(fake_model=HUGE)
    launch = FakeEngine.launch
    monkeypatch.setattr(
        FakeEngine, "launch", lambda self, options: replace(launch(self, options), warm=False)
    )
    row = services.backend_start(actor=owner_actor, name="fake", foreground=True)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
