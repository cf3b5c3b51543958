"""An engine installed as an operation: how far it is, cancelled, failed, joined, taken up again."""

from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from mh_fake_engine import FakeEngine

from accounts.actors import Actor
from audit.models import Event
from backends import bus, services
from backends.engines.base import InstallReport
from backends.errors import CannotDo, EngineNotInstalled, WorkerUnavailable
from backends.models import Lane, Operation, OperationState
from tests.backends.conftest import FakeBackend


@pytest.fixture
def backend(fake: Callable[..., FakeBackend]) -> FakeBackend:
    bus.worker_beat(settings.MH_NODE)
    return fake()


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Have the fake engine install itself this way."""

    def use(install: Callable[[InstallReport], None]) -> None:
        monkeypatch.setattr(FakeEngine, "install", lambda _self, report: install(report))

    return use  # type: ignore[return-value]


def ask(actor: Actor) -> Operation:
    return services.engine_install(actor=actor, name="fake")


def ended(row: Operation) -> Operation:
    return Operation.objects.get(pk=row.pk)


def test_it_says_how_far_it_is_and_ends_with_the_version(
    backend: FakeBackend, owner_actor: Actor, installer: Callable[..., None]
) -> None:
    seen: list[tuple[float, str]] = []

    def install(report: InstallReport) -> None:
        report(0.5, "unpacking")
        row = Operation.objects.get()
        seen.append((row.progress, row.steps.get().message))

    installer(install)
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.SUCCEEDED, ended(row).error
    assert seen == [(0.5, "unpacking")]
    assert (row.lane, row.steps.get().message) == (Lane.MODELS, "Fake engine 1.0")
    names = set(Event.objects.filter(target_id=str(row.pk)).values_list("event", flat=True))
    assert {"operation.requested", "operation.succeeded"} <= names


def test_a_cancel_ends_it(
    backend: FakeBackend, owner_actor: Actor, installer: Callable[..., None]
) -> None:
    def install(report: InstallReport) -> None:
        services.operation_cancel(actor=owner_actor, operation_id=str(row.pk))
        while True:
            report(0.1, "for ever")

    installer(install)
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.CANCELLED


def test_what_went_wrong_is_its_error(
    backend: FakeBackend, owner_actor: Actor, installer: Callable[..., None]
) -> None:
    def install(report: InstallReport) -> None:
        raise EngineNotInstalled("The disk is full.")

    installer(install)
    row = ask(owner_actor)
    backend.run()
    assert ended(row).state == OperationState.FAILED
    assert ended(row).error["message"] == "The disk is full."


def test_asking_again_joins_what_runs(
    backend: FakeBackend, owner_actor: Actor, installer: Callable[..., None]
) -> None:
    installer(lambda report: report(1.0, "done"))
    assert ask(owner_actor).pk == ask(owner_actor).pk
    backend.run()
    assert Operation.objects.count() == 1
    assert ask(owner_actor).state == OperationState.QUEUED


def test_it_needs_a_worker_and_an_engine_that_mh_installs(
    backend: FakeBackend, owner_actor: Actor, installer: Callable[..., None], clean_broker: object
) -> None:
    with pytest.raises(CannotDo, match="not installed by mh"):
        ask(owner_actor)
    installer(lambda report: None)
    bus.redis_client().flushall()
    with pytest.raises(WorkerUnavailable, match="nothing can be installed"):
        ask(owner_actor)
