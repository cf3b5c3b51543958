"""What others tell by signals, as events."""

from typing import Any

from accounts.signals import happened
from audit.models import Level, Outcome
from audit.services import event_record


def connect() -> None:
    """Start listening."""
    happened.connect(_record, dispatch_uid="audit.record")


def _record(*, outcome: str, **told: Any) -> None:
    told.pop("sender", None)
    told.pop("signal", None)
    level = Level.INFO if outcome == Outcome.SUCCESS else Level.WARNING
    event_record(**told, outcome=outcome, level=level)
