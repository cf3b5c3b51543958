"""The steps. Each may be taken again after its runner died: it looks at what is, then does the rest.

A step reports through its context and raises an error of ``backends.errors`` when it cannot go on;
whoever runs it records that and undoes what was done.
"""

import time
from typing import Any, Final

import httpx

from accounts.errors import MhError
from backends import leases, ports, selectors, services, supervisor
from backends.engines.base import Launch, Problem
from backends.errors import OperationLost, PreflightFailed, StartFailed, StopFailed
from backends.lifecycle import State, is_alive, is_serving
from backends.models import Backend, OperationKind
from backends.operations.context import Context
from backends.words import exit_in_words

#: Seconds between two looks at whether a starting engine is ready (FAULTS 48).
POLL_SECONDS: Final = 0.05
#: Seconds a readiness request may take; while weights load, an engine can be slow to answer.
_PROBE_TIMEOUT: Final = 2.0
_LOG_LINES: Final = 400
#: Seconds given to holders of leases to return them once cut; they look once a second.
CUT_SECONDS: Final = 2.0


def preflight(ctx: Context) -> None:
    """Find everything that would make the start fail, before anything is touched."""
    _wait_for_installation(ctx)
    ctx.say("checking the model, the options and the port", 0.02)
    problems = ctx.engine.preflight(ctx.options)
    if problems:
        raise _preflight_error(problems)
    launch = ctx.launch
    backend = ctx.backend
    _choose_leaving(ctx)
    if selectors.runs_as_asked(backend, launch):
        return
    if backend.state in {State.READY, State.DEGRADED} and not _is_stopped_first(ctx):
        msg = (
            f"{ctx.engine.title} is already running {backend.model}. To change the model or options, "
            f"restart it: POST /api/llm-backend/{backend.name}/restart"
        )
        raise PreflightFailed(msg, code="already_running")
    _check_port(ctx, backend, launch)


def _choose_leaving(ctx: Context) -> None:
    """Settle what a switch stops: what runs now, and not what ran when it was asked for."""
    if ctx.operation.kind != OperationKind.SWITCH:
        return
    if not ctx.operation.steps.filter(name="drain").exists():
        services.operation_leave(ctx.operation, runner=ctx.runner)


def _is_stopped_first(ctx: Context) -> bool:
    """Return whether the operation stops the backend before it starts it."""
    leaving = ctx.leaving if ctx.operation.kind != OperationKind.START else None
    return leaving is not None and leaving.name == ctx.name


def _check_port(ctx: Context, backend: Backend, launch: Launch) -> None:
    inst = ctx.instance
    if inst is not None and is_alive(State(backend.state)):
        return
    holder = ports.port_holder(launch.port, launch.host)
    if holder is not None and not _is_to_be_released(ctx, launch.port):
        msg = (
            f"Port {launch.port} is in use by {holder}. Stop that program, or choose another port for "
            f"{ctx.engine.title}: mh {backend.name} config port NUMBER"
        )
        raise PreflightFailed(msg, code="port_in_use", param="options.port")


def _is_to_be_released(ctx: Context, port: int) -> bool:
    """Return whether the port is held by the engine that is stopped first."""
    leaving = ctx.leaving
    inst = leaving.instance if leaving else None
    return inst is not None and supervisor.owns_listener(inst, port)


def _preflight_error(problems: list[Problem]) -> PreflightFailed:
    first = problems[0]
    message = " ".join(problem.message for problem in problems)
    param = f"options.{first.option}" if first.option else None
    return PreflightFailed(message, code=first.code, param=param)


def _wait_for_installation(ctx: Context) -> None:
    """A start asked for while the engine is being installed waits for it."""
    while True:
        found = ctx.engine.detect()
        if found.installing is None:
            return
        percent = round(found.installing * 100)
        ctx.say(f"{ctx.engine.title} is being installed: {percent}%", 0.01)
        ctx.checkpoint()
        time.sleep(0.5)


def drain(ctx: Context) -> None:
    """Refuse new requests and let those in flight finish, at most ``drainSeconds``."""
    if (leaving := ctx.leaving) is not None:
        _drain(leaving)


def _drain(ctx: Context) -> None:
    backend = ctx.backend
    leases.gate_close(backend.name)
    if backend.state not in {State.READY, State.DEGRADED, State.DRAINING}:
        return
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.DRAINING)
    bound = float(getattr(ctx.options, "drainSeconds", 10))
    deadline = time.monotonic() + bound
    while (left := leases.in_flight(backend.name)) and time.monotonic() < deadline:
        leases.gate_close(backend.name)
        ctx.say(f"waiting for {left} request{'s' if left > 1 else ''} to finish", 0.1)
        ctx.checkpoint()
        time.sleep(POLL_SECONDS)


def release(ctx: Context) -> None:
    """Stop the engine: no process left, port free. What still streams is cut, and told so."""
    if (leaving := ctx.leaving) is not None:
        _release(leaving)


def _release(ctx: Context) -> None:
    backend = ctx.backend
    inst = ctx.instance
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STOPPING)
    _cut_requests(backend.name)
    ctx.say(f"stopping {ctx.engine.title}", 0.3)
    _stop_instances(ctx, inst)
    services.backend_transition(
        actor=ctx.actor, name=backend.name, to=State.STOPPED, instance_id="", model="", endpoint=""
    )
    if ctx.operation.kind != OperationKind.SWITCH:
        # Who still holds a route to what a switch has stopped must hear so; the gate opens with a start.
        leases.gate_open(backend.name)


def _cut_requests(backend: str) -> None:
    """End what is still in flight, and give its holders the time to hear of it.

    vLLM that gets TERM with an open stream never ends by itself.
    """
    leases.cut(backend)
    deadline = time.monotonic() + CUT_SECONDS
    while leases.in_flight(backend) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _stop_instances(ctx: Context, current: supervisor.Instance | None) -> None:
    """Stop the known start, and any other of this backend that is still there."""
    instances = supervisor.find(ctx.home, ctx.name)
    if current is not None and current not in instances:
        instances.append(current)
    grace = ctx.launch.stop_timeout
    for inst in instances:
        supervisor.stop(inst, grace=grace)


def start(ctx: Context) -> None:
    """Spawn the engine and wait until it, and not a stranger on its port, serves the model."""
    backend = ctx.backend
    launch = ctx.launch
    if selectors.runs_as_asked(backend, launch):
        return
    inst = _spawned_before(backend, ctx) or _spawn(ctx, launch)
    ctx.spawned = True
    _wait_until_ready(ctx, inst, launch)


def _spawned_before(backend: Backend, ctx: Context) -> supervisor.Instance | None:
    """Return the engine that a runner before this one spawned for the same operation, if it lives."""
    inst = ctx.instance
    if backend.state != State.STARTING or inst is None:
        return None
    return inst if supervisor.inspect(inst).alive else None


def _spawn(ctx: Context, launch: Launch) -> supervisor.Instance:
    backend = ctx.backend
    for stray in supervisor.find(ctx.home, backend.name):
        supervisor.stop(stray, grace=launch.stop_timeout)
    inst = supervisor.new_instance(ctx.home, backend.name)
    facts: dict[str, Any] = {
        "instance_id": inst.instance_id,
        "endpoint": launch.endpoint,
        "model": launch.served_model,
        "started_options": ctx.plain_options,
    }
    if backend.state == State.STARTING:
        services.backend_update(name=backend.name, **facts)
    elif not services.backend_transition(
        actor=ctx.actor, name=backend.name, to=State.STARTING, **facts
    ):
        msg = f"{ctx.engine.title} is {backend.state} and cannot be started now."
        raise StartFailed(msg)
    leases.gate_open(backend.name)
    ctx.spawned = True
    supervisor.spawn(inst, launch)
    supervisor.prune(ctx.home, backend.name)
    return inst


def _wait_until_ready(ctx: Context, inst: supervisor.Instance, launch: Launch) -> None:
    deadline = time.monotonic() + launch.start_timeout
    next_log = 0.0
    while not _is_ready(ctx, inst, launch):
        ctx.checkpoint()
        if not supervisor.inspect(inst).alive:
            raise _start_error(ctx, inst)
        if time.monotonic() > deadline:
            raise _start_error(ctx, inst, timed_out=launch.start_timeout)
        if time.monotonic() >= next_log:
            next_log = time.monotonic() + 0.5
            _report_progress(ctx, inst)
        supervisor.wait_exit(inst, POLL_SECONDS)


def _is_ready(ctx: Context, inst: supervisor.Instance, launch: Launch) -> bool:
    """Ready means: the port is our process's, and the engine there serves the model."""
    if not supervisor.owns_listener(inst, launch.port):
        return False
    try:
        return ctx.engine.is_ready(ctx.target, timeout=_PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError):
        return False


def _report_progress(ctx: Context, inst: supervisor.Instance) -> None:
    seen = ctx.engine.progress(supervisor.log_tail(inst, _LOG_LINES))
    if seen is not None:
        ctx.say(seen.message, 0.05 + 0.85 * seen.fraction)


def _start_error(
    ctx: Context, inst: supervisor.Instance, *, timed_out: float | None = None
) -> StartFailed:
    reason = ctx.engine.failure_reason(supervisor.log_tail(inst, _LOG_LINES))
    if timed_out is not None:
        msg = (
            f"{ctx.engine.title} was not ready after {timed_out:.0f} s. A bigger model needs more: "
            f"mh {ctx.backend.name} config startTimeoutSeconds NUMBER"
        )
        return StartFailed(msg, detail=reason)
    exited = supervisor.inspect(inst).exit
    how = f" ({exit_in_words(exited)})" if exited else ""
    return StartFailed(f"{ctx.engine.title} ended while it was starting{how}.", detail=reason)


def warm(ctx: Context) -> None:
    """Have the engine generate one token, so that the first person does not wait for it.

    An engine that loads its model on demand loads it here, so it may take as long as a start.
    """
    launch = ctx.launch
    if not launch.warm:
        return
    _report_warming(ctx)
    try:
        ctx.engine.warm_up(
            ctx.target, timeout=launch.start_timeout, cancelled=lambda: _watch_warming(ctx)
        )
    except (httpx.HTTPError, OSError, ValueError) as exc:
        msg = f"{ctx.engine.title} started but does not answer a first request."
        raise StartFailed(msg, detail=f"{type(exc).__name__}: {exc}") from exc


def _watch_warming(ctx: Context) -> bool:
    """Say how far it is; raises when the operation was cancelled or the engine has ended."""
    ctx.checkpoint()
    inst = ctx.instance
    if inst is not None and not supervisor.inspect(inst).alive:
        raise _start_error(ctx, inst)
    _report_warming(ctx)
    return False


def _report_warming(ctx: Context) -> None:
    inst = ctx.instance
    if not ctx.may_say:
        return
    seen = ctx.engine.progress(supervisor.log_tail(inst, _LOG_LINES)) if inst else None
    if seen is not None and seen.fraction < 1:
        ctx.say(seen.message, 0.05 + 0.85 * seen.fraction)
    else:
        ctx.say("generating a first token", 0.93)


def commit(ctx: Context) -> None:
    """Let requests in: the backend is ready, is the active one, and keeps the options it was started with."""
    backend = ctx.backend
    if backend.state == State.STARTING:
        version = _version(ctx)
        services.backend_transition(
            actor=ctx.actor, name=backend.name, to=State.READY, version=version
        )
    leases.gate_open(backend.name)
    services.options_keep(actor=ctx.actor, name=backend.name, changes=ctx.changes)


def _version(ctx: Context) -> str:
    try:
        return ctx.engine.version(ctx.target, timeout=_PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError):
        return ctx.engine.detect().version


def undo_start(ctx: Context, *, failure: str, detail: str, cancelled: bool) -> None:
    """Clear away a start that failed or was cancelled: no process is left, the log is kept."""
    backend = ctx.backend
    if not is_alive(State(backend.state)) and not ctx.spawned:
        return
    if backend.state == State.READY and not ctx.spawned:
        return
    services.backend_transition(actor=ctx.actor, name=backend.name, to=State.STOPPING)
    try:
        _stop_instances(ctx, ctx.instance)
    except StopFailed as exc:
        services.backend_transition(
            actor=ctx.actor, name=backend.name, to=State.FAILED, failure=exc.message
        )
        return
    cleared: dict[str, Any] = {"instance_id": "", "model": "", "endpoint": ""}
    services.backend_transition(
        actor=ctx.actor,
        name=backend.name,
        to=State.STOPPED if cancelled else State.FAILED,
        failure="" if cancelled else failure,
        failure_detail="" if cancelled else detail,
        **cleared,
    )
    leases.gate_open(backend.name)


def restore(ctx: Context) -> str:
    """Have the backend that a switch moved away from serve as before.

    Returns:
        A sentence that says so; empty when the switch left none.

    Raises:
        StartFailed, StopFailed: it could not be started again.
    """
    old = ctx.restoring
    if old is None:
        return ""
    backend = old.backend
    if backend.state == State.DRAINING:
        services.backend_undrain(actor=old.actor, name=old.name)
    elif not is_serving(State(backend.state)):
        _start_again(old)
    leases.gate_open(old.name)
    return f"{old.engine.title} serves {old.backend.model} again."


def _start_again(old: Context) -> None:
    if old.backend.state == State.STOPPING:
        _release(old)
    old.say(f"starting {old.engine.title} again", 0.5)
    try:
        start(old)
        warm(old)
        commit(old)
    except OperationLost:
        raise
    except MhError as exc:
        detail = exc.detail if isinstance(exc, StartFailed) else ""
        undo_start(old, failure=exc.message, detail=detail, cancelled=False)
        raise
