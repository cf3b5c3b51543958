"""The whole state of the switchboard, as it was last seen, and what of it whom may see."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from django.conf import settings

from accounts.actors import Actor
from accounts.permissions import Permission, is_allowed
from backends import (
    choice,
    leases,
    lifecycle,
)
from backends.lifecycle import State
from backends.models import (
    Backend,
)
from backends.payloads import (
    ActivePayload,
    AvailablePayload,
    DetectedPayload,
    StartupPayload,
    StatusPayload,
)
from backends.selectors.operations import operation_current, operation_downloads
from backends.selectors.rows import (
    active_backend,
    backend_engine,
    backend_list,
    iso,
    last_snapshot,
    switchboard,
    worker_alive,
)


def detect(servers: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, DetectedPayload]:
    """Return for every backend what is installed and running, and why not.

    Args:
        servers: what was found answering just now, by backend, as ``foreign.Server.facts``; None for what
            the observer saw last.
    """
    snapshot = last_snapshot()
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
    return last_snapshot().get("backends", {}).get(name, {}).get("server") or {}


def models_seen(name: str) -> list[str] | None:
    """Return the models that the observer last heard an engine that is somebody else's offer; None if it did not."""
    heard: list[str] | None = last_snapshot().get("backends", {}).get(name, {}).get("models")
    return heard


def candidates() -> list[choice.Candidate]:
    """Return the backends of this machine, as far as the auto-select rule goes."""
    snapshot = last_snapshot()
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
    return str(_detection(backend, last_snapshot())["reason"] or "not found.")


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
    snapshot = last_snapshot()
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
    metrics = seen.get("metrics") or {}
    in_flight = leases.in_flight(row.name)
    running = metrics.get("running")
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
        in_flight=in_flight,
        since=iso(row.state_since),
        memory=seen.get("memory"),
        standby=seen.get("standby"),
        metrics=metrics,
        tokens_per_second=seen.get("tokens_per_second"),
        requests_running=in_flight if running is None else running,
        requests_waiting=metrics.get("waiting") or 0,
        reason="" if _is_up(row) else found["reason"],  # one that others run need not be installed
        failure=row.failure,
        revision=row.revision,
    )


def _configured_endpoint(row: Backend) -> str:
    options = row.options
    defaults = backend_engine(row).Options.model_fields
    host = options.get("host") or (defaults["host"].default if "host" in defaults else "127.0.0.1")
    port = options.get("port") or (defaults["port"].default if "port" in defaults else None)
    return f"http://{host}:{port}" if port else ""


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
