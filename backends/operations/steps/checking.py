"""Before anything is touched: would it work?"""

import time

from backends import ports, selectors, services, supervisor
from backends.engines.base import Launch, Problem
from backends.errors import PreflightFailed
from backends.launch_spec import Change
from backends.lifecycle import State, is_alive
from backends.models import Backend, OperationKind
from backends.operations.context import Context
from backends.operations.steps import attached, gpu_guard
from backends.operations.steps.fitting import refuse_what_cannot_fit
from backends.operations.steps.parking import is_parked, squatter
from backends.operations.steps.spawning import begin_ahead, begin_keeper


def preflight(ctx: Context) -> None:
    """Find everything that would make the start fail, before anything is touched."""
    if ctx.change == Change.NOTHING:
        ctx.say("nothing has changed that matters to what runs", 0.5)
        return
    if attached.is_served_by_others(ctx):
        _choose_leaving(ctx)
        attached.check(ctx)
        return
    _wait_for_installation(ctx)
    ctx.say("checking the model, the options and the port", 0.02)
    problems = ctx.engine.preflight(ctx.options)
    if problems:
        raise _preflight_error(problems)
    launch = ctx.launch
    backend = ctx.backend
    _choose_leaving(ctx)
    if _runs_as_asked(ctx, backend, launch):
        return
    if backend.state in {State.READY, State.DEGRADED} and not _is_stopped_first(ctx):
        msg = (
            f"{ctx.engine.title} is already running {backend.model}. To change the model or options, "
            f"restart it: POST /api/llm-backend/{backend.name}/restart"
        )
        raise PreflightFailed(msg, code="already_running")
    begin_keeper(ctx)
    gpu_guard.check_free(ctx, launch.gpus)
    _check_port(ctx, backend, launch)
    refuse_what_cannot_fit(ctx)
    if ctx.change == Change.RESTART and not is_parked(ctx):
        begin_ahead(ctx)


def _runs_as_asked(ctx: Context, backend: Backend, launch: Launch) -> bool:
    """Return whether there is nothing to start: the model runs, with the options asked for."""
    if not selectors.runs_as_asked(backend, launch):
        return False
    if ctx.operation.kind != OperationKind.START or not ctx.changes:
        return True
    # The options asked for are kept when this succeeds, so what runs must have them.
    return selectors.backend_difference(backend, ctx.options).change == Change.NOTHING


def _choose_leaving(ctx: Context) -> None:
    """Settle what is to stop: what runs now, and not what ran when it was asked for."""
    if ctx.operation.steps.filter(name="drain").exists():
        return
    if ctx.operation.kind == OperationKind.SWITCH:
        services.operation_leave(ctx.operation, runner=ctx.runner)
        attached.check_leaving(ctx)
    elif ctx.operation.kind != OperationKind.START:
        services.operation_remember(ctx.operation, runner=ctx.runner)


def _is_stopped_first(ctx: Context) -> bool:
    """Return whether the operation stops the backend before it starts it."""
    leaving = ctx.leaving if ctx.operation.kind != OperationKind.START else None
    return leaving is not None and leaving.name == ctx.name


def _check_port(ctx: Context, backend: Backend, launch: Launch) -> None:
    inst = ctx.instance
    if inst is not None and is_alive(State(backend.state)):
        return
    holder = ports.port_holder(launch.port, launch.host)
    if holder is None or squatter(ctx, launch.port) is not None:
        return
    if not _is_to_be_released(ctx, launch.port):
        msg = (
            f"Port {launch.port} is in use by {holder}. Stop that program, or choose another port for "
            f"{ctx.engine.title}: mh {backend.name} config port NUMBER"
        )
        raise PreflightFailed(msg, code="port_in_use", param="options.port")


def _is_to_be_released(ctx: Context, port: int) -> bool:
    """Return whether the port is held by the engine that is stopped first, or by a start nobody remembers."""
    leaving = ctx.leaving
    inst = leaving.instance if leaving else None
    if inst is not None and supervisor.owns_listener(inst, port):
        return True
    strays = supervisor.find(ctx.home, ctx.name)
    return any(supervisor.owns_listener(stray, port) for stray in strays)


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
