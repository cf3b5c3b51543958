"""The backend that is to start: spawned, ready, warm, let in."""

import time
from typing import Any, Final

import httpx

from backends import leases, selectors, services, supervisor
from backends.engines.base import Launch
from backends.errors import StartFailed
from backends.launch_spec import Change
from backends.lifecycle import State
from backends.models import Backend
from backends.operations.context import Context
from backends.operations.steps import attached, gpu_guard, parking
from backends.operations.steps.spawning import spawn, spawn_plainly
from backends.words import exit_in_words

#: Seconds between two looks at whether a starting engine is ready (FAULTS 48).
POLL_SECONDS: Final = 0.05
#: Seconds a readiness request may take; while weights load, an engine can be slow to answer.
_PROBE_TIMEOUT: Final = 2.0
_LOG_LINES: Final = 400
#: States in which a change is only configured.
_OFF: Final = frozenset({State.STOPPED, State.FAILED, State.PARKED})


def start(ctx: Context) -> None:
    """Spawn the engine and wait until it, and not a stranger on its port, serves the model."""
    if attached.start(ctx):
        return
    backend = ctx.backend
    launch = ctx.launch
    if selectors.runs_as_asked(backend, launch):
        return
    begin(ctx)
    if parking.is_parked(ctx):
        gpu_guard.take(ctx, launch.gpus)
        if parking.unparked(ctx):
            return
    gpu_guard.take(ctx, launch.gpus)
    inst = _spawned_before(ctx.backend, ctx) or spawn(ctx, launch)
    ctx.spawned = True
    try:
        _wait_until_ready(ctx, inst, launch)
    except StartFailed:
        again = spawn_plainly(ctx, inst, launch)
        if again is None:
            raise
        _wait_until_ready(ctx, again, launch)


def begin(ctx: Context) -> None:
    """Take the time of a start; one that a runner before this one began is not measured."""
    if not ctx.resumed:
        ctx.began = time.monotonic()


def _spawned_before(backend: Backend, ctx: Context) -> supervisor.Instance | None:
    """Return the engine that a runner before this one spawned for the same operation, if it lives."""
    inst = ctx.instance
    if backend.state != State.STARTING or inst is None:
        return None
    return inst if supervisor.inspect(inst).alive else None


def _wait_until_ready(ctx: Context, inst: supervisor.Instance, launch: Launch) -> None:
    deadline = time.monotonic() + launch.start_timeout
    next_log = 0.0
    while not _is_ready(ctx, inst, launch):
        ctx.checkpoint()
        if not supervisor.inspect(inst).alive:
            raise start_error(ctx, inst)
        if time.monotonic() > deadline:
            raise start_error(ctx, inst, timed_out=launch.start_timeout)
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


def start_error(
    ctx: Context, inst: supervisor.Instance, *, timed_out: float | None = None
) -> StartFailed:
    """Return why the engine is not ready, with its own reason from its log."""
    tail = supervisor.log_tail(inst, _LOG_LINES)
    reason = selectors.mask(ctx.engine.failure_reason(tail), ctx.backend)
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
    if ctx.backend.attached:  # its start has loaded the model
        return
    launch = ctx.launch
    if not launch.warm or ctx.warmed:
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
        raise start_error(ctx, inst)
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


def resume(ctx: Context) -> None:
    """Let requests in, those first that were held."""
    leases.gate_open(ctx.name)


def commit(ctx: Context) -> None:
    """Say that the backend is ready and the active one, and keep the options it was started with."""
    backend = ctx.backend
    if ctx.operation.kind in Context.COMPARED and backend.state in _OFF:
        services.backend_configure_as(actor=ctx.actor, name=backend.name, options=ctx.changes)
        return
    if backend.state == State.STARTING:
        version = _version(ctx)
        services.backend_transition(
            actor=ctx.actor, name=backend.name, to=State.READY, version=version
        )
    elif ctx.operation.kind in Context.COMPARED:
        _commit_running(ctx)
    _keep_record(ctx)
    services.options_keep(actor=ctx.actor, name=backend.name, changes=ctx.changes)


def _commit_running(ctx: Context) -> None:
    """Say what an engine that went on running serves now, and which options count from now on."""
    facts: dict[str, Any] = {"started_options": ctx.started_options}
    if ctx.change == Change.LOAD:
        facts["model"] = ctx.launch.served_model
    services.backend_update(name=ctx.name, **facts)
    services.backend_undrain(actor=ctx.actor, name=ctx.name)


def _keep_record(ctx: Context) -> None:
    """Record what the start took; one that was resumed says nothing of that."""
    if ctx.began is None:
        return
    services.start_keep(
        name=ctx.name,
        kind=ctx.start_kind,
        model=ctx.backend.model,
        options=ctx.plain_options,
        seconds=time.monotonic() - ctx.began,
        planned_bytes=ctx.planned_bytes,
    )
    ctx.began = None


def _version(ctx: Context) -> str:
    try:
        return ctx.engine.version(ctx.target, timeout=_PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError):
        return ctx.engine.detect().version
