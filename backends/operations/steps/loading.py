"""Another model in an engine that goes on running: loaded, checked, and the one before taken out."""

from typing import Any

import httpx

from accounts.errors import MhError
from backends import selectors, services, supervisor
from backends.engines.base import Target
from backends.errors import OperationLost, StartFailed
from backends.lifecycle import State
from backends.models import StartKind
from backends.operations.context import Context
from backends.operations.steps.starting import begin, start_error

#: Seconds an unload may take; what still streamed was given ``drainSeconds`` before.
UNLOAD_SECONDS = 30.0


def load(ctx: Context) -> None:
    """Put the wanted model into memory; the engine itself says when it is there.

    An engine configured to load with the first request is left to do so.
    """
    begin(ctx)
    ctx.start_kind = StartKind.LOAD
    launch = ctx.launch
    if not launch.warm:
        return
    try:
        ctx.engine.load(
            _target(ctx),
            launch.served_model,
            timeout=launch.start_timeout,
            cancelled=lambda: _watch(ctx, launch.served_model),
        )
    except (httpx.HTTPError, OSError) as exc:
        msg = f"{ctx.engine.title} did not answer while it was to load {launch.served_model}."
        raise StartFailed(msg, detail=f"{type(exc).__name__}: {exc}") from exc


def unload(ctx: Context) -> None:
    """Take the model before out of memory."""
    backend = ctx.backend
    wanted = ctx.launch.served_model
    if not backend.model or backend.model == wanted:
        return
    ctx.say(f"unloading {backend.model}", 0.95)
    _unload(ctx, backend.model)


def _unload(ctx: Context, model: str) -> None:
    try:
        ctx.engine.unload(_target(ctx), model, timeout=UNLOAD_SECONDS)
    except (httpx.HTTPError, OSError) as exc:
        msg = f"{ctx.engine.title} did not answer while it was to unload {model}."
        raise StartFailed(msg, detail=f"{type(exc).__name__}: {exc}") from exc


def _target(ctx: Context) -> Target:
    """Return where the engine answers that runs, with the key it was started with."""
    return selectors.backend_target(ctx.backend)


def _watch(ctx: Context, model: str) -> bool:
    """Say what is loaded; raises when the operation was cancelled or the engine has ended."""
    ctx.checkpoint()
    ctx.say(f"loading {model}", 0.4)
    inst = ctx.instance
    if inst is not None and not supervisor.inspect(inst).alive:
        raise start_error(ctx, inst)
    return False


def undo_load(ctx: Context, old: Context) -> None:
    """Have the model before in memory again, and not the new one; an engine that has ended is not asked.

    Raises:
        StartFailed, StopFailed: the engine does not do it.
    """
    inst = old.instance
    if inst is not None and not supervisor.inspect(inst).alive:
        _ended(old)
        return
    before, new = old.launch.served_model, _wanted(ctx)
    old.say(f"loading {before} again", 0.5)
    try:
        if new and new != before:
            _unload(old, new)
        if old.launch.warm:
            old.engine.load(_target(old), before, timeout=old.launch.start_timeout)
        facts: dict[str, Any] = {"model": before, "started_options": old.given}
        services.backend_update(name=old.name, **facts)
    except OperationLost:
        raise
    except (MhError, httpx.HTTPError, OSError):
        # What cannot be put right in the running engine is, by a new start.
        services.backend_transition(actor=old.actor, name=old.name, to=State.STOPPING)


def _ended(old: Context) -> None:
    services.backend_transition(actor=old.actor, name=old.name, to=State.STOPPING)


def _wanted(ctx: Context) -> str:
    try:
        return ctx.launch.served_model
    except MhError:
        return ""
