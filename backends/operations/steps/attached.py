"""The same steps where the engine is somebody else's: used and asked to unload, stopped only by its service.

An attached engine stays in the state it serves in until it really is parked or gone, so that a refusal
on the way leaves it serving.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from accounts.errors import MhError
from backends import foreign, leases, lifecycle, services, systemd, watching
from backends.errors import PreflightFailed, StartFailed, StopFailed, UnknownModel
from backends.launch_spec import Change
from backends.lifecycle import State
from backends.models import OperationKind
from backends.operations.context import Context
from backends.operations.steps import gpu_guard

POLL_SECONDS: Final = 0.1
#: Seconds a stopped service may keep its port, and a started one may take to answer.
GONE_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
_ASK_TIMEOUT: Final = 5.0
#: Operations after which the engine itself is not to run on.
_ENDING: Final = frozenset({OperationKind.STOP, OperationKind.RESTART, OperationKind.APPLY})
#: Those of them that want another process in its place.
_ANEW: Final = _ENDING - {OperationKind.STOP}
_OPTIONS: Final = "Its options can only be changed there; another model is had by a switch to it."


# Before anything is touched.


def is_served_by_others(ctx: Context) -> bool:
    """Say whether the backend is, or is to be, served by an engine that is not under our keeper."""
    watching.take_up_all(adopt=False)
    if ctx.backend.attached:
        return True
    return (
        ctx.backend.state in lifecycle.FINDABLE
        and foreign.service_to_start(ctx.backend) is not None
    )


def check(ctx: Context) -> None:
    """Refuse what cannot be had from an engine that somebody else started."""
    fixed = sorted((ctx.changes.keys() - {"model"}) & ctx.engine.Options.fields_with("restart"))
    if fixed:
        raise _refusal(ctx, f"{fixed[0]} can only be changed there.")
    if not ctx.backend.attached:
        return
    if ctx.operation.kind in _ANEW and ctx.change == Change.RESTART and not _unit(ctx):
        what = "Restart it there." if ctx.operation.kind == OperationKind.RESTART else _OPTIONS
        raise _refusal(ctx, what)
    if ctx.engine.capabilities.many_models:
        _check_load(ctx)
    elif "model" in ctx.changes and ctx.backend.model != _wanted(ctx):
        serves = f"It serves {ctx.backend.model} and no other model; stop it there first."
        raise _refusal(ctx, serves)


def _check_load(ctx: Context) -> None:
    model = _wanted(ctx)
    if not _is_loaded_at_start(ctx) or _is_in_memory(ctx, model):
        return
    gpu_guard.check_free(ctx, foreign.gpus_of(ctx.backend, ctx.options))
    try:
        ctx.engine.show(foreign.target_of(ctx.backend), model, timeout=_ASK_TIMEOUT)
    except UnknownModel as exc:
        raise PreflightFailed(exc.message, code=exc.code, param="options.model") from exc
    except (MhError, NotImplementedError, httpx.HTTPError, OSError):
        return  # loading it says more


def check_leaving(ctx: Context) -> None:
    """Refuse a switch away from an engine that we can neither stop nor have give its memory back."""
    leaving = ctx.leaving
    if leaving is None or not leaving.backend.attached or foreign.can_unload(leaving.engine):
        return
    raise _refusal(leaving, "Its GPU memory cannot be had from here: stop it there.")


def _refusal(ctx: Context, what: str) -> PreflightFailed:
    return PreflightFailed(f"{_started_by(ctx)}. {what}", code="attached")


def _started_by(ctx: Context) -> str:
    server = foreign.find(ctx.backend)
    endpoint = ctx.backend.endpoint or foreign.endpoint_of(ctx.options)
    return foreign.said_by(ctx.engine.title, endpoint, server.facts() if server else {})


def _unit(ctx: Context) -> systemd.Unit | None:
    server = foreign.find(ctx.backend)
    return server.unit if server else None


def _wanted(ctx: Context) -> str:
    """Return the name of the model to serve: when undoing, the one it served."""
    if ctx.given is not None and ctx.backend.model:
        return ctx.backend.model
    options = ctx.options
    return str(getattr(options, "served_name", "") or getattr(options, "model", ""))


def _is_in_memory(ctx: Context, model: str) -> bool:
    target = foreign.target_of(ctx.backend, model)
    with contextlib.suppress(httpx.HTTPError, OSError):
        found = ctx.engine.loaded_model(target, timeout=_ASK_TIMEOUT)
        return ctx.backend.state in lifecycle.SERVING and found == model
    return False


def _is_loaded_at_start(ctx: Context) -> bool:
    try:
        return ctx.launch.warm
    except MhError:  # the program is not on this machine, the server is all the same
        return True


# Giving way.


def release(ctx: Context, *, cut: Callable[[str], None]) -> None:
    """Stop an attached engine through its service manager, or have it give its memory back.

    Args:
        ctx: the run, on the attached backend.
        cut: ends the requests still in flight, once it is sure that it comes to that.

    Raises:
        StopFailed: it can do neither; it serves on.
    """
    refused = ""
    if ctx.operation.kind in _ENDING:
        refused = _stop_service(ctx, cut)
        if refused == _STOPPED:
            return
    if not foreign.can_unload(ctx.engine) or ctx.operation.kind in _ANEW:
        why = f" systemctl says: {refused}." if refused else ""
        raise StopFailed(f"{_started_by(ctx)}; stop it there.{why}", code="attached")
    _park(ctx, cut)
    if ctx.operation.kind == OperationKind.STOP:
        said = f"{_started_by(ctx)}, so it stays; its models were unloaded."
        services.step_message(ctx.operation, ctx.step, said)


_STOPPED: Final = "stopped"


def _stop_service(ctx: Context, cut: Callable[[str], None]) -> str:
    """Return ``_STOPPED`` when nothing of it answers any more, else why its service was not stopped."""
    server = foreign.find(ctx.backend)
    if server is None and not foreign.listening(ctx.options):
        _detach(ctx, "It was gone already.")
        return _STOPPED
    if server is None or server.unit is None:
        return ""
    ctx.say(f"stopping the service {server.unit}", 0.3)
    if refused := systemd.stop(server.unit):
        return refused
    cut(ctx.name)
    _await_gone(ctx)
    _detach(ctx, f"Its service {server.unit} was stopped.")
    return _STOPPED


def _await_gone(ctx: Context) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while foreign.listening(ctx.options):
        if time.monotonic() > deadline:
            msg = f"{ctx.engine.title}'s service was stopped, and its port is still in use after {GONE_SECONDS:.0f} s."
            raise StopFailed(msg)
        time.sleep(POLL_SECONDS)


def _park(ctx: Context, cut: Callable[[str], None]) -> None:
    """Have every model leave memory, verified; the engine runs on, and is not asked for anything."""
    cut(ctx.name)
    ctx.say(f"unloading {ctx.engine.title}'s models", 0.3)
    timeout = float(getattr(ctx.options, "stopTimeoutSeconds", GONE_SECONDS))
    try:
        ctx.engine.park(foreign.target_of(ctx.backend), timeout=timeout)
    except (httpx.HTTPError, OSError) as exc:
        if not foreign.listening(ctx.options):
            _detach(ctx, "It ended meanwhile.")
            return
        msg = (
            f"{ctx.engine.title} did not say whether it unloaded its models ({type(exc).__name__})."
        )
        raise StopFailed(msg) from exc
    _give_leases_back(ctx)
    services.backend_transition(actor=ctx.actor, name=ctx.name, to=State.PARKED)


def _give_leases_back(ctx: Context) -> None:
    services.gpu_lease_release(
        actor=ctx.actor, backend=ctx.name, operation=ctx.operation, runner=ctx.runner
    )


def _detach(ctx: Context, why: str) -> None:
    _give_leases_back(ctx)
    services.backend_detach(name=ctx.name, message=why)


# Serving.


def start(ctx: Context) -> bool:
    """Have an engine that is not under our keeper serve; return whether that is how the backend runs."""
    backend = ctx.backend
    if not backend.attached:
        unit = foreign.service_to_start(backend) if backend.state in lifecycle.FINDABLE else None
        if unit is None or not _start_service(ctx, unit):
            return False
    _serve(ctx)
    if ctx.backend.state == State.STARTING:
        version = _await_answer(ctx).version
        services.backend_transition(actor=ctx.actor, name=ctx.name, to=State.READY, version=version)
    return True


def _start_service(ctx: Context, unit: systemd.Unit) -> bool:
    """Start the service the engine runs as here; return whether it may be, else we run it ourselves."""
    facts: dict[str, Any] = {
        "attached": True,
        "instance_id": "",
        "endpoint": foreign.endpoint_of(ctx.options),
        "model": _wanted(ctx),
        "started_options": ctx.plain_options,
    }
    if not services.backend_transition(actor=ctx.actor, name=ctx.name, to=State.STARTING, **facts):
        return False
    leases.gate_open(ctx.name)
    ctx.spawned = True
    ctx.say(f"starting the service {unit}", 0.1)
    refused = systemd.start(unit)
    if refused:
        services.backend_update(name=ctx.name, attached=False)
        said = f"the service {unit} cannot be started from here ({refused}); starting our own"
        services.step_message(ctx.operation, ctx.step, said)
        _check_own(ctx, unit, refused)
        return False
    return True


def _check_own(ctx: Context, unit: systemd.Unit, refused: str) -> None:
    """Find what would keep our own from starting; preflight had counted on the service."""
    problems = ctx.engine.preflight(ctx.options)
    if problems:
        why = " ".join(problem.message for problem in problems)
        msg = f"The service {unit} cannot be started from here ({refused}), and neither can our own: {why}"
        raise StartFailed(msg)


def _await_answer(ctx: Context) -> foreign.Server:
    deadline = time.monotonic() + ANSWER_SECONDS
    while (server := foreign.find(ctx.backend)) is None:
        ctx.checkpoint()
        if time.monotonic() > deadline:
            msg = f"{ctx.engine.title}'s service was started, and does not answer after {ANSWER_SECONDS:.0f} s."
            raise StartFailed(msg)
        time.sleep(POLL_SECONDS)
    return server


def _serve(ctx: Context) -> None:
    """Have the model in memory that is asked for, where the engine can change that while it runs."""
    backend = ctx.backend
    if not ctx.engine.capabilities.many_models:
        return
    model = _wanted(ctx)
    if backend.state == State.STARTING:
        _await_answer(ctx)
    if _is_loaded_at_start(ctx):
        _load(ctx, model)
    if backend.state == State.PARKED:
        services.backend_transition(actor=ctx.actor, name=ctx.name, to=State.READY, model=model)
    else:
        services.backend_refresh(name=ctx.name, model=model)


def _load(ctx: Context, model: str) -> None:
    target = foreign.target_of(ctx.backend, model)
    timeout = float(getattr(ctx.options, "startTimeoutSeconds", ANSWER_SECONDS))
    try:
        if _is_in_memory(ctx, model):
            return
        gpu_guard.take(ctx, foreign.gpus_of(ctx.backend, ctx.options))
        ctx.say(f"loading {model}", 0.4)
        ctx.engine.unpark(target, timeout=timeout, cancelled=lambda: _is_cancelled(ctx))
    except (httpx.HTTPError, OSError) as exc:
        msg = f"{ctx.engine.title} did not load {model}."
        raise StartFailed(msg, detail=f"{type(exc).__name__}: {exc}") from exc


def _is_cancelled(ctx: Context) -> bool:
    ctx.checkpoint()
    return False


# Undoing.


def let_go_on(ctx: Context) -> None:
    """Have an attached engine that could not be stopped serve on."""
    if ctx.backend.attached:
        services.backend_undrain(actor=ctx.actor, name=ctx.name)
        leases.gate_open(ctx.name)


def undo_start(ctx: Context, *, failure: str, detail: str, cancelled: bool) -> None:
    """Undo the start of a service; an engine that ran before is left as it is."""
    backend = ctx.backend
    leases.gate_open(ctx.name)
    if backend.state != State.STARTING:
        _give_back(ctx)
        return
    unit = _unit(ctx)
    services.backend_transition(actor=ctx.actor, name=ctx.name, to=State.STOPPING)
    if unit is not None:
        systemd.stop(unit)
    _give_leases_back(ctx)
    services.backend_transition(
        actor=ctx.actor,
        name=ctx.name,
        to=State.STOPPED if cancelled else State.FAILED,
        failure="" if cancelled else failure,
        failure_detail="" if cancelled else detail,
        attached=False,
        model="",
        endpoint="",
    )


def _give_back(ctx: Context) -> None:
    """Have the models leave memory that a switch loaded, since what ran before comes back; at best effort."""
    if ctx.operation.kind == OperationKind.SWITCH and foreign.can_unload(ctx.engine):
        with contextlib.suppress(MhError, httpx.HTTPError, OSError):
            ctx.engine.park(foreign.target_of(ctx.backend), timeout=GONE_SECONDS)
