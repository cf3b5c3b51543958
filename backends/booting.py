"""What happens once when the site comes up: the start-up behaviour chooses a backend, and has it started.

`mh up` gives every run of the site a name and a time (``MH_BOOT``). The observer, which knows what runs,
applies the behaviour step by step, each kept in the broker, so that an observer that is restarted goes
on, and does nothing twice. Whatever a person asks for meanwhile counts more.
"""

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import redis
from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from audit.models import Category, Level, Outcome
from audit.services import event_record
from backends import bus, choice, selectors, services, watching
from backends.models import OPEN_OPERATION_STATES, Lane, Operation, OperationState

logger = logging.getLogger(__name__)

#: Names this run of the site: seconds since 1970 when it began, and something random.
BOOT_VARIABLE: Final = "MH_BOOT"
_KEPT_SECONDS: Final = 7 * 86_400


@dataclass
class _Progress:
    """How far a boot is."""

    boot: str
    #: The operation whose end is awaited; empty when there is none.
    operation: str = ""
    #: Backends whose start has failed.
    failed: list[str] = field(default_factory=list)
    done: bool = False


@dataclass
class Startup:
    """Applies the start-up behaviour to one run of the site."""

    boot: str = field(default_factory=lambda: os.environ.get(BOOT_VARIABLE, ""))
    _done: bool = False

    def tick(self) -> bool:
        """Take the next step if it can be taken; return whether there is nothing left to do."""
        if self._done or not self.boot:
            return True
        try:
            progress = _read(self.boot)
        except redis.RedisError:
            return False
        if not progress.done and selectors.worker_alive():
            _advance(progress)
            _write(progress)
        self._done = progress.done
        return self._done


def new_boot() -> str:
    """Return a name for a run of the site that begins now."""
    return f"{datetime.now(tz=UTC).timestamp():.3f}-{os.urandom(4).hex()}"


def _advance(progress: _Progress) -> None:
    try:
        if progress.operation:
            _after_operation(progress)
        elif _was_chosen_since(progress.boot):
            progress.done = True
        else:
            _choose(progress)
    except MhError as exc:
        _say(f"The start-up behaviour could not be applied: {exc.message}")
        progress.done = True


def _was_chosen_since(boot: str) -> bool:
    """Say whether somebody has asked for something since the site came up, or the site is at it still."""
    began = datetime.fromtimestamp(float(boot.partition("-")[0]), tz=UTC)
    rows = Operation.objects.filter(node=settings.MH_NODE, lane=Lane.GPU)
    return (
        rows.filter(created_at__gte=began).exists()
        or rows.filter(state__in=OPEN_OPERATION_STATES).exists()
    )


def _choose(progress: _Progress) -> None:
    """Choose, and have it started where it does not run."""
    watching.take_up_all()
    board = selectors.startup()
    name = choice.at_startup(
        board["behavior"],
        selectors.candidates(),
        configured=board["active"],
        failed=frozenset(progress.failed),
    )
    progress.done = True
    if name is None:
        _say(_nothing(board["behavior"], progress))
        return
    services.active_set(actor=Actor.system(), name=name)
    backend = selectors.backend_get(name)
    if selectors.backend_is_running(backend):
        return
    if backend.auto_start or progress.failed:
        row = _ask(name)
        progress.operation, progress.done = str(row.pk), False


def _ask(name: str) -> Operation:
    """Have it started; another one that runs gives way, as it would to a person's switch."""
    others = [row for row in selectors.candidates() if row.running and row.name != name]
    ask = services.backend_switch if others else services.backend_start
    return ask(actor=Actor.system(), name=name)


def _nothing(behavior: str, progress: _Progress) -> str:
    if progress.failed:
        return f"No backend is left to start: {', '.join(progress.failed)} failed."
    if behavior in {choice.AUTO, choice.FALLBACK}:
        return services.nothing_to_pick()
    return f"The start-up behaviour names {behavior}, and there is no such backend."


def _after_operation(progress: _Progress) -> None:
    """See how the start ended; ``fallback`` goes on to the next backend when it failed."""
    try:
        row = selectors.operation_get(progress.operation)
    except MhError:
        progress.done = True
        return
    if row.state in OPEN_OPERATION_STATES:
        return
    progress.operation = ""
    gave_up = row.state in {OperationState.FAILED, OperationState.ROLLED_BACK}
    if not gave_up or selectors.startup()["behavior"] != choice.FALLBACK:
        progress.done = True
        return
    later = Operation.objects.filter(node=row.node, lane=Lane.GPU, created_at__gt=row.created_at)
    if later.exists():  # somebody has seen to it
        progress.done = True
        return
    progress.failed.append(row.backend_id)
    _choose(progress)


def _say(message: str) -> None:
    logger.warning("%s", message)
    event_record(
        actor=Actor.system(),
        event="switchboard.startup_failed",
        category=Category.CONFIGURATION,
        level=Level.WARNING,
        outcome=Outcome.FAILURE,
        target_type="config",
        target_id="startup",
        message=message,
    )


def _key() -> str:
    return f"mh:boot:{settings.MH_NODE}"


def _read(boot: str) -> _Progress:
    text = bus.redis_client().get(_key())
    with contextlib.suppress(ValueError, TypeError):
        kept: dict[str, Any] = json.loads(str(text)) if text else {}
        if kept.get("boot") == boot:
            return _Progress(**kept)
    return _Progress(boot=boot)


def _write(progress: _Progress) -> None:
    try:
        bus.redis_client().set(_key(), json.dumps(asdict(progress)), ex=_KEPT_SECONDS)
    except redis.RedisError as exc:
        logger.warning("start-up progress not kept: %s", exc)
