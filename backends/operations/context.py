"""What a step has in hand: the operation, the engine, how to report, and when to stop."""

import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from django.conf import settings

from accounts.actors import Actor
from backends import launch_spec, selectors, services, supervisor
from backends.engines.base import Engine, Launch, Target
from backends.errors import OperationCancelled, OperationLost
from backends.launch_spec import Change
from backends.lifecycle import State, is_serving
from backends.models import Backend, Lane, Operation, OperationKind, StartKind

#: Seconds between two writes of progress: a log can move faster than anybody reads.
_REPORT_SECONDS = 0.25
#: Seconds between two looks at whether the operation was cancelled.
_CHECK_SECONDS = 0.1


@dataclass
class Context:
    """One run of one operation on one backend. Steps take it, and leave what later steps need in it.

    A switch acts on two backends: on the new one, and through ``leaving`` on the one before.
    """

    #: Kinds that begin by comparing what runs with what is wanted.
    COMPARED: ClassVar = frozenset({OperationKind.CHANGE_MODEL, OperationKind.APPLY})

    operation: Operation
    runner: str
    engine: Engine
    actor: Actor
    #: The backend this acts on.
    name: str
    #: The option changes asked for.
    changes: dict[str, Any] = field(default_factory=dict)
    #: Options to use instead of the configured ones, as ``Backend.started_options`` keeps them.
    given: dict[str, Any] | None = None
    #: Whether a cancel is not heard: what undoes an operation is not itself cancelled.
    deaf: bool = False
    lost: threading.Event = field(default_factory=threading.Event)
    #: Name of the step being taken.
    step: str = ""
    #: Whether this start is undone on failure: set once the old engine was touched or ours was spawned.
    spawned: bool = False
    #: Number of the GPU lease this start was taken under.
    fencing: int = 0
    #: A keeper that was begun ahead of the process it is to keep.
    keeper: supervisor.KeeperAhead | None = None
    started: float = field(default_factory=time.monotonic)
    #: When this run began to start the engine or to load its model; None: it did not.
    began: float | None = None
    #: How it came to be ready, for the record of starts.
    start_kind: str = StartKind.COLD
    #: Whether a runner before this one took the operation up.
    resumed: bool = False
    #: What the plan says it takes, in bytes; None where that is not known.
    planned_bytes: int | None = None
    #: Whether a first token was generated already.
    warmed: bool = False
    _reported: float = 0.0
    _checked: float = 0.0
    _change: Change | None = None
    _configured: tuple[dict[str, Any], str] | None = None
    _expected: tuple[float | None] | None = None

    @classmethod
    def of(cls, operation: Operation, runner: str) -> "Context":
        """Return the context of a run that has just been claimed."""
        return cls(
            operation=operation,
            runner=runner,
            engine=selectors.backend_engine(operation.backend),
            actor=services.operation_actor(operation),
            name=operation.backend_id,
            changes=dict(operation.request),
            resumed=operation.steps.exists(),
        )

    @property
    def leaving(self) -> "Context | None":
        """The same run on the backend that is to stop: this one, or the one a switch moves away from."""
        if self.operation.kind != OperationKind.SWITCH:
            return self
        name = self.operation.from_backend
        return self.on(name) if name else None

    def on(self, name: str) -> "Context":
        """Return the same run on backend ``name``, as that is configured."""
        engine = selectors.backend_engine(selectors.backend_get(name))
        return replace(self, name=name, engine=engine, changes={}, spawned=False, _configured=None)

    @property
    def restoring(self) -> "Context | None":
        """The same on the backend that ran before, with what it ran with; None where none did."""
        old, given = self.leaving, self.operation.from_options
        if old is None or given is None:
            return None
        return replace(
            old, given=given, changes={}, deaf=True, spawned=False, began=None, warmed=False
        )

    @property
    def change(self) -> Change:
        """What it takes to have what was asked for; settled by the first step, when it asks.

        A run that goes on after its runner died settles it anew: what does not serve any more is
        started, whatever was to be done at first.
        """
        if self._change is None:
            self._change = self._settled_change()
        return self._change

    def _settled_change(self) -> Change:
        backend = self.backend
        state = State(backend.state)
        if self.operation.kind not in self.COMPARED:
            return Change.RESTART
        if backend.attached and is_serving(state) and backend.model == self._model_wanted():
            return Change.NOTHING  # only its model is for us to change
        if is_serving(state) or state == State.DRAINING:
            return selectors.backend_difference(backend, self.options).change
        if self.operation.steps.filter(name="drain").exists():
            return Change.RESTART  # begun by a runner before this one
        return Change.NOTHING  # what does not run is only configured

    def _model_wanted(self) -> str:
        options = self.options
        return str(getattr(options, "served_name", "") or getattr(options, "model", ""))

    @property
    def backend(self) -> Backend:
        """The backend's row as it is now."""
        return selectors.backend_get(self.name)

    @property
    def options(self) -> Any:
        """The validated options the engine is to run with."""
        return selectors.backend_options(self._with_options(), self.changes)

    @property
    def plain_options(self) -> dict[str, Any]:
        """The options that differ from the engine's defaults, without secrets."""
        return selectors.options_given(self._with_options(), self.changes)

    @property
    def started_options(self) -> dict[str, Any]:
        """What is kept of a start with these options: see ``launch_spec.kept``."""
        return launch_spec.kept(self.plain_options, self._with_options().secrets)

    def _with_options(self) -> Backend:
        """Return the row with the options of this run: what is configured meanwhile is for the next."""
        backend = self.backend
        if self.given is not None:
            backend.options = launch_spec.options_of(self.given)
            token = launch_spec.token_of(self.given)
            backend.secrets = backend.secrets if token is None else token
            return backend
        if self._configured is None:
            self._configured = (backend.options, backend.secrets)
        backend.options, backend.secrets = self._configured
        return backend

    @property
    def launch(self) -> Launch:
        """The command the engine is to be started with."""
        return self.engine.launch(self.options)

    @property
    def target(self) -> Target:
        """Where the engine will answer."""
        launch = self.launch
        return Target(
            endpoint=launch.endpoint,
            served_model=launch.served_model,
            api_key=str(getattr(self.options, "apiKey", None) or ""),
            options=self.options,
        )

    @property
    def instance(self) -> supervisor.Instance | None:
        """The start of the backend that the database knows of."""
        return selectors.backend_instance(self.backend)

    @property
    def home(self) -> Any:
        """``MH_HOME``."""
        return settings.MH_HOME

    def checkpoint(self) -> None:
        """Stop here if the operation was cancelled or taken over. Cheap enough to call every 50 ms.

        Raises:
            OperationLost: another runner has it; touch nothing more.
            OperationCancelled: somebody asked for an end; undo.
        """
        if self.lost.is_set():
            msg = "another runner has taken this operation over"
            raise OperationLost(msg)
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        if self.deaf:
            self._hear_stop()
            return
        asked = Operation.objects.filter(pk=self.operation.pk, cancel_requested=True)
        if asked.exists():
            msg = "The operation was cancelled."
            raise OperationCancelled(msg)

    def _hear_stop(self) -> None:
        """What is only restored gives way to whoever wants it stopped."""
        if selectors.stop_is_asked(self.name):
            msg = f"{self.engine.title} is to be stopped."
            raise OperationCancelled(msg)

    @property
    def may_say(self) -> bool:
        """Whether ``say`` would be heard now: what it costs to know can be spared otherwise."""
        return time.monotonic() - self._reported >= _REPORT_SECONDS

    def say(self, message: str, progress: float, *, eta_seconds: float | None = None) -> None:
        """Tell those who watch what is being done; ``progress`` is 0 to 1 of the whole operation.

        ``eta_seconds`` is for who knows better than past operations how long it still takes.
        """
        if not self.may_say:
            return
        self._reported = time.monotonic()
        services.step_message(self.operation, self.step, message)
        services.operation_report(
            str(self.operation.pk),
            runner=self.runner,
            progress=progress,
            eta_seconds=self._eta(progress) if eta_seconds is None else eta_seconds,
        )

    def _eta(self, progress: float) -> float | None:
        """Return the seconds left: from past starts, else from how far this one is."""
        if self.operation.lane == Lane.MODELS:  # no two models are of a size
            return None
        now = time.monotonic()
        if self._expected is None:
            found = selectors.start_seconds_expected(self.backend, self.operation.kind)
            self._expected = (found,)
        (expected,) = self._expected
        if expected is None:
            elapsed = now - self.started
            expected = elapsed / progress if progress > 0.1 else None  # noqa: PLR2004
        else:
            # What is expected is the time of the start itself: before it, all of it is left.
            elapsed = now - (self.began or now)
        return None if expected is None else round(max(0.0, expected - elapsed), 1)
