"""Reads: status, operations, logs, and where a request can be sent."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

from django.conf import settings
from django.db.models import F, Q, QuerySet

from accounts.actors import Actor
from accounts.errors import MhError
from accounts.permissions import Permission, is_allowed
from backends import (
    bus,
    choice,
    launch_spec,
    leases,
    lifecycle,
    logs,
    plan_reading,
    planning,
    secrets,
    supervisor,
)
from backends.engines import registry
from backends.engines.base import Engine, Launch, ModelInfo, Standby, Target
from backends.engines.estimates import Estimate, unknown
from backends.errors import (
    BackendNotRunning,
    InvalidOptions,
    UnknownBackend,
    UnknownModel,
    UnknownOperation,
    UnknownStart,
)
from backends.launch_spec import Change, Difference
from backends.lifecycle import State
from backends.models import (
    OPEN_OPERATION_STATES,
    SERVING_KINDS,
    Backend,
    Lane,
    Operation,
    OperationKind,
    OperationState,
    OperationStep,
    StartKind,
    StartRecord,
    Switchboard,
)
from backends.payloads import (
    ActivePayload,
    AvailablePayload,
    DetectedPayload,
    OperationPayload,
    StartupPayload,
    StatusPayload,
    StepPayload,
)

logger = logging.getLogger(__name__)

#: Bytes of log read at once for somebody who follows it.
_LOG_CHUNK = 256 * 1024
#: Seconds after which to try again while the GPU moves: where nothing is known, and at most.
_RETRY_USUAL, _RETRY_MAX = 5, 60


@dataclass(frozen=True, slots=True)
class ServingTarget:
    """A backend that takes requests now."""

    backend: str
    engine: str
    target: Target
    #: Whether it is the one that answers who names none.
    active: bool = False
    #: Which start of the engine, with which model: a lease is taken for this and nothing else.
    token: str = ""
    #: Names it answers to beside its model: adapters.
    also: tuple[str, ...] = ()


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def backend_get(name: str) -> Backend:
    """Return the row of backend ``name``.

    Raises:
        UnknownBackend: there is none; the message names those there are.
    """
    found = Backend.objects.filter(name=name).first()
    if found is None:
        names = ", ".join(Backend.objects.values_list("name", flat=True)) or "none"
        msg = f"There is no backend called {name[:80]!r}. Backends here: {names}."
        raise UnknownBackend(msg, param="backend")
    return found


def backend_list() -> list[Backend]:
    """Return the backends by name; one whose plugin is gone is kept in the database and not shown."""
    return list(Backend.objects.filter(engine__in=engine_names()))


def engine_names() -> list[str]:
    """Return the names of the engine plugins that work here."""
    return sorted(registry.engines())


def backend_engine(backend: Backend) -> Engine:
    """Return the plugin that runs ``backend``."""
    return registry.engine(backend.engine)


def backend_options(backend: Backend, changes: dict[str, Any] | None = None) -> Any:
    """Return the validated options of ``backend``, with ``changes`` on top.

    Raises:
        InvalidOptions: a value is unknown, of the wrong type or out of bounds; names the first one.
    """
    from pydantic import ValidationError

    engine = backend_engine(backend)
    own = engine.Options.own_names
    values = {
        **own(backend.options), **secrets.unseal(backend.secrets), **own(changes or {}),
    }  # fmt: skip
    try:
        return engine.Options.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        known = ", ".join(sorted(engine.Options.model_fields))
        hint = f" Options are: {known}." if first["type"] == "extra_forbidden" else ""
        reason = "unknown option." if first["type"] == "extra_forbidden" else f"{first['msg']}."
        msg = f"{engine.title} option {name[:80]!r}: {reason}{hint}"
        raise InvalidOptions(msg, param=f"options.{name[:80]}") from exc


def options_given(backend: Backend, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the options that are set for ``backend``, with ``changes`` on top; secrets are not among them."""
    own = backend_engine(backend).Options.own_names
    return {**own(backend.options), **own(changes or {})}


def backend_config(backend: Backend) -> dict[str, Any]:
    """Return every option with its value; secrets only as whether they are set."""
    options = backend_options(backend)
    hidden = type(options).fields_with("secret")
    values = options.model_dump(mode="json")
    return {
        "backend": backend.name,
        "options": {name: value for name, value in values.items() if name not in hidden},
        "secrets": {name: bool(values[name]) for name in sorted(hidden)},
        "auto_start": backend.auto_start,
        "schema": type(options).model_json_schema(),
    }


def backend_launch(backend: Backend, changes: dict[str, Any] | None = None) -> Launch:
    """Return what would be started with the options of ``backend`` and ``changes``."""
    return backend_engine(backend).launch(backend_options(backend, changes))


def standby_wanted(backend: Backend) -> Standby | None:
    """Return what is to be kept waiting for a start of ``backend``; None where nothing is.

    Also None while that cannot be said, for want of an installation or of valid options.
    """
    try:
        options = backend_options(backend)
        if not getattr(options, "standby", False) or backend.attached:
            return None
        return backend_engine(backend).standby(options)
    except MhError:
        return None


def runs_as_asked(backend: Backend, launch: Launch) -> bool:
    """Return whether ``backend`` serves what ``launch`` would."""
    return (
        lifecycle.is_serving(State(backend.state))
        and backend.model == launch.served_model
        and backend.endpoint == launch.endpoint
    )


def backend_difference(backend: Backend, wanted: Any) -> Difference:
    """Return how ``wanted`` (validated options) differs from what ``backend`` was started with.

    Where that is not known, or is not valid any more, it takes a restart.
    """
    started = backend.started_options
    if started is None:
        return Difference(Change.RESTART)
    token = launch_spec.token_of(started)
    row = Backend(
        name=backend.name,
        engine=backend.engine,
        options=launch_spec.options_of(started),
        secrets=backend.secrets if token is None else token,
    )
    try:
        runs = backend_options(row)
    except InvalidOptions:
        return Difference(Change.RESTART)
    return launch_spec.compare(backend_engine(backend), runs, wanted)


def backend_to_leave(backend: Backend, changes: dict[str, Any]) -> Backend | None:
    """Return what must give way for a switch to ``backend``; None when nothing must.

    That is the active backend if another one, else another one that runs while ``backend`` does not;
    ``backend`` itself if it runs otherwise than asked. One that is parked has given way already.
    """
    alive = [
        row
        for row in backend_list()
        if row.node == backend.node
        and lifecycle.is_alive(State(row.state))
        and row.state != State.PARKED
    ]
    others = [row for row in alive if row.pk != backend.pk]
    active = active_backend()
    if active in others:
        return active
    if backend not in alive:
        return next(iter(others), None)
    try:
        launch = backend_launch(backend, changes)
    except MhError:  # preflight says why
        return None
    return None if runs_as_asked(backend, launch) else backend


def backend_answers(backend: Backend) -> bool:
    """Return whether a server of ``backend`` that we know of should answer about its models."""
    return State(backend.state) in {State.READY, State.DEGRADED, State.DRAINING, State.PARKED}


def backend_models(name: str) -> list[ModelInfo]:
    """Return the models on this machine that backend ``name`` can serve."""
    backend = backend_get(name)
    return backend_engine(backend).models(backend_options(backend))


def backend_instance(backend: Backend) -> supervisor.Instance | None:
    """Return the running start of ``backend``, or None when it has none."""
    if not backend.instance_id:
        return None
    return supervisor.instance(settings.MH_HOME, backend.name, backend.instance_id)


def backend_log(name: str, lines: int = 200, *, start: str = "") -> list[str]:
    """Return the last lines of a start of backend ``name``, without secrets.

    Args:
        name: of the backend.
        lines: at most so many.
        start: id of the start; empty for the current one, or the one before it.

    Raises:
        UnknownBackend, UnknownStart.
    """
    backend = backend_get(name)
    inst = _start_kept(backend, start) if start else _last_start(backend)
    if inst is None:
        return []
    blot = logs.masker(_secret_values(backend))
    return [blot(line) for line in supervisor.log_tail(inst, lines)]


def backend_starts(name: str) -> list[logs.StartLog]:
    """Return the starts of backend ``name`` whose logs are kept, newest first."""
    return logs.starts(settings.MH_HOME, backend_get(name).name)


def _last_start(backend: Backend) -> supervisor.Instance | None:
    inst = backend_instance(backend)
    if inst is None and backend.last_instance_id:
        return supervisor.instance(settings.MH_HOME, backend.name, backend.last_instance_id)
    return inst


def _start_kept(backend: Backend, start: str) -> supervisor.Instance:
    kept = supervisor.instances(settings.MH_HOME, backend.name)
    found = next((inst for inst in kept if inst.instance_id == start), None)
    if found is None:
        msg = (
            f"There is no start {start[:80]!r} of {backend.name}, or its log is no longer kept. Those "
            f"kept are listed by GET /api/llm-backend/{backend.name}/logs."
        )
        raise UnknownStart(msg, param="start")
    return found


def mask(text: str, backend: Backend) -> str:
    """Return ``text`` with secrets blotted out: options of ``backend``, and what the site inherited."""
    return logs.masker(_secret_values(backend))(text)


def _secret_values(backend: Backend) -> list[str]:
    """Return the secret options as they are configured, and as what runs was started with."""
    tokens = {backend.secrets, launch_spec.token_of(backend.started_options) or ""}
    return [value for token in tokens for value in secrets.unseal(token).values()]


def backend_target(backend: Backend) -> Target:
    """Return where the engine of ``backend`` answers, and the key it was started with."""
    token = launch_spec.token_of(backend.started_options)
    keys = secrets.unseal(backend.secrets if token is None else token)
    return Target(
        endpoint=backend.endpoint, served_model=backend.model, api_key=keys.get("apiKey", "")
    )


def backend_token(backend: Backend) -> str:
    """Return what tells one start and model of a backend from every other."""
    return f"{backend.instance_id or backend.endpoint}:{backend.model}"


def switchboard() -> Switchboard:
    """Return the row of site-wide choices."""
    return Switchboard.objects.select_related("active_backend").get_or_create(pk=1)[0]


def active_backend() -> Backend | None:
    """Return the active backend: the one chosen, else the first there is."""
    return _active_of(backend_list())


def _active_of(rows: list[Backend]) -> Backend | None:
    # Every chat passes here: no row is made where there is none yet.
    chosen = Switchboard.objects.filter(pk=1).values_list("active_backend_id", flat=True).first()
    return next((row for row in rows if row.pk == chosen), next(iter(rows), None))


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a request for a backend that does not serve now is worth waiting, and for how long."""

    backend: str
    #: A sentence for a person.
    reason: str
    eta_seconds: float | None = None
    #: The model it will serve then; empty where that is not known.
    model: str = ""
    #: Whether it has to be asked for: nothing under way brings it about.
    on_demand: bool = False
    #: The model to ask for; empty for the configured one.
    wanted: str = ""


def waits() -> list[Wait]:
    """Return what is worth waiting for: first what an operation under way brings, then what may be asked for."""
    rows = backend_list()
    coming = Operation.objects.filter(
        state__in=OPEN_OPERATION_STATES, kind__in=SERVING_KINDS, cancel_requested=False
    ).select_related("backend")
    found = {row.backend_id: _coming(row) for row in coming if row.backend in rows}
    for row in rows:
        if row.name not in found and comes_on_demand(row):
            found[row.name] = _on_demand(row)
    return list(found.values())


def comes_on_demand(row: Backend) -> bool:
    """Return whether a chat that needs ``row`` may have it started: its owner said so, or it only rests.

    One that gave its memory back because it was idle was not turned off by anybody.
    """
    if backend_options(row).onDemandStart:
        return True
    last = Operation.objects.filter(
        Q(backend=row) | Q(from_backend=row.name), lane=Lane.GPU, state=OperationState.SUCCEEDED
    ).first()
    rests = State(row.state) in {State.PARKED, State.STOPPED}
    return rests and last is not None and last.kind == OperationKind.UNLOAD


def _coming(row: Operation) -> Wait:
    title = backend_engine(row.backend).title
    what = "The GPU is moving to" if row.kind == OperationKind.SWITCH else "Waiting for"
    return Wait(
        backend=row.backend_id,
        reason=f"{what} {title}.",
        eta_seconds=row.eta_seconds,
        model=_model_of(row.backend, row.request),
    )


def _on_demand(row: Backend) -> Wait:
    return Wait(
        backend=row.name,
        reason=f"{backend_engine(row).title} is started on demand.",
        eta_seconds=start_seconds_expected(row, OperationKind.START),
        model=_model_of(row, {}),
        on_demand=True,
    )


def _model_of(row: Backend, changes: dict[str, Any]) -> str:
    try:
        return backend_launch(row, changes).served_model
    except MhError:  # preflight says why
        return ""


def serving_target(name: str | None = None) -> ServingTarget:
    """Return where a request for backend ``name`` (None: the active one) can be sent now.

    Raises:
        UnknownBackend: there is no such backend.
        BackendNotRunning: it is not serving; the message says what it is doing instead.
    """
    backend = backend_get(name) if name else active_backend()
    if backend is None:
        msg = "No engine plugin is installed, so there is no backend to answer."
        raise BackendNotRunning(msg)
    if not lifecycle.is_serving(State(backend.state)):
        raise _not_serving(backend)
    return ServingTarget(
        backend.name, backend.engine, backend_target(backend), token=backend_token(backend)
    )


def _not_serving(backend: Backend) -> BackendNotRunning:
    moving = Operation.objects.filter(
        node=backend.node, kind=OperationKind.SWITCH, state=OperationState.RUNNING
    ).first()
    if moving is None:
        return BackendNotRunning(_why_not_serving(backend), retry_after=_retry_after(backend))
    title = backend_engine(moving.backend).title
    seconds = max(1, min(_RETRY_MAX, math.ceil(moving.eta_seconds or _RETRY_USUAL)))
    msg = f"The GPU is moving to {title}. Try again in {seconds} seconds."
    return BackendNotRunning(msg, code="backend_draining", retry_after=seconds)


def _why_not_serving(backend: Backend) -> str:
    title = backend_engine(backend).title
    match State(backend.state):
        case State.STARTING:
            return f"{title} is starting. Try again when it is ready."
        case State.DRAINING | State.STOPPING:
            return f"{title} is being stopped. Start it again to chat."
        case State.PARKED:
            return f"{title} gave its memory back. Start it again to chat: mh {backend.name} start"
        case State.FAILED:
            return f"{title} failed and is not running. Its owner can start it again."
        case _:
            return f"{title} is not running. Start it on the settings page or with: mh {backend.name} start"


def _retry_after(backend: Backend) -> int | None:
    return 10 if backend.state == State.STARTING else None


def serving_targets() -> list[ServingTarget]:
    """Return every backend that takes requests now, the active one first."""
    rows = backend_list()
    active = _active_of(rows)
    found = [
        ServingTarget(
            row.name,
            row.engine,
            backend_target(row),
            row is active,
            token=backend_token(row),
            also=backend_engine(row).also_serves(row.started_options or {}),
        )
        for row in rows
        if lifecycle.is_serving(State(row.state))
    ]
    return sorted(found, key=lambda target: not target.active)


def in_flight(name: str) -> int:
    """Return how many requests are in flight to backend ``name``."""
    return leases.in_flight(name)


def worker_alive() -> bool:
    """Return whether a worker of this GPU machine is running."""
    return bus.worker_alive(settings.MH_NODE)


def detect(servers: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, DetectedPayload]:
    """Return for every backend what is installed and running, and why not.

    Args:
        servers: what was found answering just now, by backend, as ``foreign.Server.facts``; None for what
            the observer saw last.
    """
    snapshot = _snapshot()
    seen = snapshot.get("backends", {})
    return {
        row.name: _detected(
            row, snapshot, (servers or {}).get(row.name) or seen.get(row.name, {}).get("server")
        )
        for row in backend_list()
    }


def _detected(
    row: Backend, snapshot: dict[str, Any], server: Mapping[str, Any] | None
) -> DetectedPayload:
    facts = _available(row, snapshot)
    found = _detection(row, snapshot)
    answers = server or {}
    model = facts["model"] or answers.get("model") or None
    running = facts["running"] or bool(answers.get("model"))
    foreign = row.attached or (bool(answers) and not facts["running"])
    return DetectedPayload(
        title=facts["title"],
        installed=facts["installed"],
        installing=facts["installing"],
        running=running,
        state=facts["state"],
        attached=row.attached,
        version=answers.get("version") or facts["version"],
        model=model,
        endpoint=facts["endpoint"],
        path=found.get("path", ""),
        unit=answers.get("unit", "") if foreign else "",
        pid=answers.get("pid") if foreign else None,
        user=answers.get("user", "") if foreign else "",
        reason=_why_not_running(facts, answers, running=running),
    )


def _why_not_running(facts: AvailablePayload, answers: Mapping[str, Any], *, running: bool) -> str:
    if running:
        return ""
    if answers:
        return f"{facts['title']} answers there and refuses us: set its apiKey to the key it wants."
    return facts["reason"] or facts["failure"]


def detect_for(actor: Actor, found: dict[str, DetectedPayload]) -> dict[str, DetectedPayload]:
    """Return ``found`` without paths, processes and users, unless ``actor`` operates backends."""
    if actor.is_system or _is_operator(actor):
        return found
    hidden = {"path": "", "unit": "", "pid": None, "user": ""}
    return {name: cast("DetectedPayload", {**row, **hidden}) for name, row in found.items()}


def server_facts(name: str) -> dict[str, Any]:
    """Return what the observer last saw answering for backend ``name`` that it did not start; empty if nothing."""
    return _snapshot().get("backends", {}).get(name, {}).get("server") or {}


def candidates() -> list[choice.Candidate]:
    """Return the backends of this machine, as far as the auto-select rule goes."""
    snapshot = _snapshot()
    return [
        choice.Candidate(
            name=row.name,
            installed=bool(_detection(row, snapshot)["installed"]),
            running=_is_up(row) or bool(server_facts(row.name).get("model")),
        )
        for row in backend_list()
        if row.node == settings.MH_NODE
    ]


def why_not_installed(backend: Backend) -> str:
    """Return why the engine of ``backend`` is not installed, and what to do."""
    return str(_detection(backend, _snapshot())["reason"] or "not found.")


def _is_up(row: Backend) -> bool:
    return lifecycle.is_serving(State(row.state)) or row.state == State.DRAINING


def _detection(row: Backend, snapshot: dict[str, Any]) -> dict[str, Any]:
    seen = snapshot.get("backends", {}).get(row.name) or {}
    return seen.get("detection") or detection_now(row)


def startup() -> StartupPayload:
    """Return what happens when the site comes up."""
    board = switchboard()
    return StartupPayload(
        behavior=board.startup_behavior,
        active=board.active_backend_id,
        auto_start={row.name: row.auto_start for row in backend_list()},
    )


def detection_now(backend: Backend) -> dict[str, Any]:
    """Look for the engine of ``backend`` on this machine. For the observer, and where none runs."""
    found = backend_engine(backend).detect()
    return {
        "installed": found.installed,
        "installing": found.installing,
        "version": found.version,
        "reason": found.reason,
        "path": found.path,
    }


def status() -> StatusPayload:
    """Return the whole state of the switchboard. Reads rows and a snapshot; probes nothing."""
    snapshot = _snapshot()
    rows = backend_list()
    chosen = active_backend()
    available = {row.name: _available(row, snapshot) for row in rows}
    return StatusPayload(
        active=_active(chosen, available, rows),
        available=available,
        operation=operation_current(),
        downloads=operation_downloads(),
        gpus=snapshot.get("gpus", []),
        deployment_mode=switchboard().deployment_mode,
        worker=worker_alive(),
        observed_at=snapshot.get("observed_at"),
    )


def _snapshot() -> dict[str, Any]:
    return bus.snapshot_read(settings.MH_NODE) or {}


def _active(
    chosen: Backend | None, available: dict[str, AvailablePayload], rows: Iterable[Backend]
) -> ActivePayload:
    """Prefer the chosen backend; when it is off and another one runs, that one answers."""
    running = next((row for row in rows if available[row.name]["running"]), None)
    row = chosen if chosen is None or available[chosen.name]["running"] else running or chosen
    if row is None:
        return ActivePayload(
            backend=None, engine=None, node=settings.MH_NODE, state=State.STOPPED, running=False,
            health=lifecycle.Health.OFFLINE, model=None, version="", endpoint="", attached=False,
            in_flight=0, since=None,
        )  # fmt: skip
    facts = available[row.name]
    return ActivePayload(
        backend=row.name, engine=row.engine, node=row.node, state=facts["state"],
        running=facts["running"], health=facts["health"], model=facts["model"],
        version=facts["version"], endpoint=facts["endpoint"], attached=facts["attached"],
        in_flight=facts["in_flight"], since=facts["since"],
    )  # fmt: skip


def _available(row: Backend, snapshot: dict[str, Any]) -> AvailablePayload:
    state = State(row.state)
    seen = snapshot.get("backends", {}).get(row.name) or {}
    found = seen.get("detection") or detection_now(row)
    return AvailablePayload(
        title=backend_engine(row).title,
        installed=found["installed"],
        installing=found["installing"],
        running=lifecycle.is_serving(state) or state == State.DRAINING,
        state=state,
        health=lifecycle.health_of(state),
        version=row.version or found["version"],
        model=row.model or None,
        endpoint=row.endpoint or _configured_endpoint(row),
        attached=row.attached,
        in_flight=leases.in_flight(row.name),
        since=_iso(row.state_since),
        memory=seen.get("memory"),
        standby=seen.get("standby"),
        metrics=seen.get("metrics") or {},
        reason="" if _is_up(row) else found["reason"],  # one that others run need not be installed
        failure=row.failure,
    )


def _configured_endpoint(row: Backend) -> str:
    options = row.options
    defaults = backend_engine(row).Options.model_fields
    host = options.get("host") or (defaults["host"].default if "host" in defaults else "127.0.0.1")
    port = options.get("port") or (defaults["port"].default if "port" in defaults else None)
    return f"http://{host}:{port}" if port else ""


def operation_get(operation_id: str) -> Operation:
    """Return one operation.

    Raises:
        UnknownOperation: there is none with this id.
    """
    from django.core.exceptions import ValidationError

    try:
        return Operation.objects.prefetch_related("steps").get(pk=operation_id)
    except (Operation.DoesNotExist, ValidationError) as exc:
        msg = f"There is no operation {operation_id!s:.80}. See GET /api/llm-backend/operations."
        raise UnknownOperation(msg, param="id") from exc


def operation_list(limit: int = 50, offset: int = 0) -> list[Operation]:
    """Return operations, newest first."""
    return list(Operation.objects.prefetch_related("steps")[offset : offset + limit])


def operation_current() -> OperationPayload | None:
    """Return the operation that has the GPU of this machine, else the first one waiting for it."""
    row = _open_operations(Lane.GPU).first()
    return operation_payload(row) if row else None


def operation_downloads() -> list[OperationPayload]:
    """Return the downloads and deletions of models on this machine: the running one, then those waiting."""
    return [operation_payload(row) for row in _open_operations(Lane.MODELS)]


def _open_operations(lane: Lane) -> QuerySet[Operation]:
    return (
        Operation.objects.filter(node=settings.MH_NODE, lane=lane, state__in=OPEN_OPERATION_STATES)
        .prefetch_related("steps")
        .order_by(F("started_at").asc(nulls_last=True), "created_at")
    )


def operation_payload(row: Operation) -> OperationPayload:
    """Return ``row`` as clients see it. The engine's own line is for operators, who alone may ask."""
    steps = [_step(step) for step in row.steps.all()]
    return OperationPayload(
        id=str(row.pk),
        kind=row.kind,
        backend=row.backend_id,
        from_backend=row.from_backend or None,
        model=row.request.get("model"),
        state=row.state,
        step=steps[-1]["name"] if steps else None,
        steps=steps,
        progress=round(row.progress, 3),
        eta_seconds=row.eta_seconds,
        requested_by=row.requested_by_name,
        request_id=row.request_id,
        error=row.error,
        created_at=row.created_at.isoformat(),
        finished_at=_iso(row.finished_at),
    )


def _step(step: OperationStep) -> StepPayload:
    return StepPayload(
        name=step.name,
        state=step.state,
        started_at=step.started_at.isoformat(),
        finished_at=_iso(step.finished_at),
        message=step.message,
    )


def operation_wait(operation_id: str, seconds: float) -> Operation:
    """Return the operation as soon as it has ended, at the latest after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        row = operation_get(operation_id)
        if row.state not in OPEN_OPERATION_STATES or time.monotonic() >= deadline:
            return row
        time.sleep(0.1)


def stop_is_asked(name: str) -> bool:
    """Return whether a stop of backend ``name`` waits for its turn."""
    return Operation.objects.filter(
        backend=name, kind=OperationKind.STOP, state=OperationState.QUEUED
    ).exists()


#: How many of the past an estimate is made from.
_PAST = 5


def start_seconds_expected(backend: Backend, kind: str, model: str | None = None) -> float | None:
    """Return how long it should take until ``backend`` is ready, in seconds; None where nothing is known.

    The median of its last five starts with ``model`` of the way it would be started now; of any
    model, where there are none; else of operations of this ``kind``.
    """
    if kind in SERVING_KINDS:
        ways = _start_kinds(backend, kind)
        records = StartRecord.objects.filter(backend=backend, kind__in=ways)
        for rows in (records.filter(model=model or _model_wanted(backend)), records):
            if spans := list(rows.values_list("seconds", flat=True)[:_PAST]):
                return median(spans)
    return _operation_seconds(backend, kind)


def _start_kinds(backend: Backend, kind: str) -> tuple[str, ...]:
    if backend.state == State.PARKED:
        return (StartKind.UNPARK,)
    loads = kind in {OperationKind.CHANGE_MODEL, OperationKind.APPLY}
    if loads and backend_engine(backend).capabilities.many_models and backend_is_running(backend):
        return (StartKind.LOAD,)
    return (StartKind.COLD, StartKind.STANDBY)


def _model_wanted(backend: Backend) -> str:
    try:
        return backend_launch(backend).served_model
    except MhError:  # preflight says why
        return backend.model


def _operation_seconds(backend: Backend, kind: str) -> float | None:
    spans = [
        (row.finished_at - row.started_at).total_seconds()
        for row in Operation.objects.filter(
            backend=backend, kind=kind, state=OperationState.SUCCEEDED
        )[:_PAST]
        if row.finished_at and row.started_at
    ]
    return median(spans) if spans else None


def backend_plan(
    name: str, model: str | None = None, options: dict[str, Any] | None = None
) -> planning.Plan:
    """Return whether backend ``name`` would fit, with ``model`` and ``options`` in place of its own.

    What a switch to it would stop, and what it holds itself, counts as given back. Changes nothing. The
    model's files are read here; memory is what the observer of its machine last saw.

    Raises:
        UnknownBackend, InvalidOptions.
        UnknownModel: it is not on this machine; the message names those that are.
    """
    backend = backend_get(name)
    changes = {**(options or {}), **({} if model is None else {"model": model})}
    wanted = backend_options(backend, changes)
    problems = [] if backend.attached else backend_engine(backend).preflight(wanted)
    for problem in problems:
        if problem.code == UnknownModel.code:
            raise UnknownModel(problem.message, param="model")
    leaving = backend_to_leave(backend, changes)
    kind = OperationKind.SWITCH if leaving and leaving.pk != backend.pk else OperationKind.START
    snapshot = bus.snapshot_read(backend.node) or {}
    machine = plan_reading.machine_seen(snapshot, _alive_on(backend.node))
    return plan_of(
        backend,
        wanted,
        leaving=[backend.name, *([leaving.name] if leaving else [])],
        machine=machine or machine_now(backend.node),
        expected_seconds=start_seconds_expected(backend, kind),
    )


def plan_of(
    backend: Backend,
    options: Any,
    *,
    leaving: list[str],
    machine: planning.Machine,
    expected_seconds: float | None = None,
) -> planning.Plan:
    """Return whether ``backend`` fits into ``machine`` with validated ``options`` once ``leaving`` are gone."""
    engine = backend_engine(backend)
    estimate = _estimate(engine, options)
    past = plan_reading.past_start(backend, estimate, options) if estimate else None
    return planning.plan(
        backend=backend.name,
        title=engine.title,
        estimate=estimate,
        machine=machine,
        leaving=leaving,
        past=past,
        expected_seconds=expected_seconds,
    )


def _estimate(engine: Engine, options: Any) -> Estimate | None:
    """Return what ``engine`` says; a bug in its plugin is no reason to refuse a start."""
    try:
        return engine.estimate(options)
    except Exception:
        logger.exception("%s cannot estimate", engine.name)
        model = str(getattr(options, "model", ""))
        return unknown(model, "Estimating it failed; the log of the site says how.")


def machine_now(node: str) -> planning.Machine:
    """Return the memory of the GPU machine ``node`` as it is now; of another machine nothing is known."""
    if node != settings.MH_NODE:
        return planning.Machine()
    starts = [
        (row.name, inst)
        for row in backend_list()
        for inst in [backend_instance(row)]
        if row.node == node and inst is not None
    ]
    return plan_reading.machine_now(
        {name: supervisor.tree(inst) for name, inst in starts},
        {name: supervisor.rss_bytes(inst) for name, inst in starts},
        _alive_on(node),
    )


def _alive_on(node: str) -> list[str]:
    """Return the backends of ``node`` that hold memory, whoever started them."""
    return [
        row.name
        for row in backend_list()
        if row.node == node and lifecycle.is_alive(State(row.state))
    ]


def now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(tz=UTC)


def backend_owner_id(name: str) -> int | None:
    """Return the primary key of the owner of backend ``name``; None without one, or without a backend."""
    return Backend.objects.filter(name=name).values_list("owner_id", flat=True).first()


def backend_is_running(backend: Backend) -> bool:
    """Return whether the engine of ``backend`` takes requests."""
    return lifecycle.is_serving(State(backend.state))


def backend_is_alive(backend: Backend) -> bool:
    """Return whether a process of the engine of ``backend`` exists or may exist."""
    return lifecycle.is_alive(State(backend.state))


def model_started(backend: Backend) -> str:
    """Return the model that ``backend`` was last started with, by its name on this machine."""
    given = backend_engine(backend).Options.own_names(backend.started_options or {})
    named = given.get("model") or getattr(backend_options(backend), "model", "")
    return str(named) if backend_is_alive(backend) else ""


def operation_backend_owner_id(operation_id: str) -> int | None:
    """Return the primary key of the owner of the operation's backend; None if anything is unknown."""
    try:
        return operation_get(operation_id).backend.owner_id
    except UnknownOperation:
        return None


def _is_operator(actor: Actor) -> bool:
    return is_allowed(actor.user, Permission.BACKENDS_OPERATE, scopes=actor.scopes)


def status_for(actor: Actor, status: StatusPayload) -> dict[str, Any]:
    """Return ``status`` without the engine's own words, unless ``actor`` operates backends."""
    return frame_for(actor, dict(status))


def frame_for(actor: Actor, frame: dict[str, Any]) -> dict[str, Any]:
    """Return a published frame as ``actor`` may see it."""
    operation = frame.get("operation")
    if _is_operator(actor) or not operation or not operation.get("error"):
        return frame
    error = {**operation["error"], "detail": ""}
    return {**frame, "operation": {**operation, "error": error}}


class LogFollower:
    """Reads what is added to a backend's log, across starts and rotations."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._instance_id, self._offset = self._end()

    def _end(self) -> tuple[str, int]:
        inst = self._current()
        if inst is None:
            return "", 0
        path = supervisor.log_path(inst)
        return inst.instance_id, path.stat().st_size if path.exists() else 0

    def _current(self) -> supervisor.Instance | None:
        return backend_instance(backend_get(self._name))

    def read(self) -> tuple[list[str], bool]:
        """Return the lines added since the last call, and whether they are of a new start."""
        backend = backend_get(self._name)
        inst = backend_instance(backend)
        if inst is None:
            return [], False
        fresh = inst.instance_id != self._instance_id
        if fresh:
            self._instance_id, self._offset = inst.instance_id, 0
        path = supervisor.log_path(inst)
        if not path.exists():
            return [], fresh
        return mask(self._added(path), backend).splitlines(), fresh

    def _added(self, path: Path) -> str:
        """Return whole lines after the last offset; a file that shrank was rotated."""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < self._offset:
                self._offset = 0
            file.seek(self._offset)
            data = file.read(_LOG_CHUNK)
        whole = data.rfind(b"\n") + 1
        if len(data) == _LOG_CHUNK and not whole:
            whole = len(data)  # a line without end: shown in pieces rather than waited for
        self._offset += whole
        return data[:whole].decode(errors="replace")
