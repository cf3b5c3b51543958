"""A worker looks at what a start looks at, before anybody waits for it; nothing comes of it but speed."""

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings

from backends.models import Operation
from backends.operations.rehearsal import rehearse
from tests.backends.conftest import FakeBackend

Make = Callable[..., FakeBackend]


def test_it_checks_and_starts_nothing(fake: Make) -> None:
    backend = fake()
    rehearse(settings.MH_NODE)
    assert backend.pids() == ()
    assert Operation.objects.count() == 0
    assert backend.row.state == "stopped"


def test_a_plugin_that_breaks_and_options_that_are_wrong_are_no_errors_here(
    fake: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mh_fake_engine import FakeEngine

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeEngine, "preflight", broken)
    fake()
    fake("fake2", nonsense=True)
    rehearse(settings.MH_NODE)
    rehearse("another-machine")
