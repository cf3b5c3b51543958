"""A server of the engine that can be asked about its models: the one that runs, else one for the moment."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

import httpx
from django.conf import settings

from backends import selectors, supervisor
from backends.engines.base import Engine, Target
from backends.errors import BackendNotRunning
from backends.models import Backend, Lane, Operation, OperationState
from backends.ports import free_port

POLL_SECONDS: Final = 0.05
_PROBE_TIMEOUT: Final = 2.0
_LOG_LINES: Final = 200
#: Seconds without a heartbeat after which nobody is at work on an operation.
_SILENT_SECONDS: Final = 5.0


def nothing() -> None:
    """Be a checkpoint that never ends anything."""


@contextlib.contextmanager
def server(backend: Backend, *, checkpoint: Callable[[], object] = nothing) -> Iterator[Target]:
    """Give a server of ``backend``'s engine for pulling, describing and deleting models.

    That is the one that runs, whoever started it. Where none does, one is started under a keeper of its
    own: it loads nothing and is gone afterwards. An engine that works on disk gets nowhere to ask.

    Args:
        backend: whose.
        checkpoint: called while a server starts; it may raise to end that.

    Raises:
        BackendNotRunning: none runs, and none could be started for the moment.
        EngineNotInstalled: there is no program to start.
    """
    engine = selectors.backend_engine(backend)
    if engine.capabilities.library_on_disk:
        yield Target(endpoint="")
    elif (running := _running(backend, engine)) is not None:
        yield running
    else:
        with _for_the_moment(backend, engine, checkpoint) as target:
            yield target


def is_there(backend: Backend, target: Target) -> bool:
    """Return whether the server at ``target`` still answers."""
    if not target.endpoint:
        return True
    try:
        return selectors.backend_engine(backend).is_healthy(target, timeout=_PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError):
        return False


def _running(backend: Backend, engine: Engine) -> Target | None:
    if selectors.backend_answers(backend):
        target = selectors.backend_target(backend)
        if is_there(backend, target):
            return target
    found = engine.running(selectors.backend_options(backend), timeout=_PROBE_TIMEOUT)
    return Target(endpoint=found.endpoint) if found else None


def _name(backend: Backend) -> str:
    """Return the name that the servers for the moment of ``backend`` go under."""
    return f"{backend.name}.library"


def clear_away(backend: Backend) -> None:
    """End what a runner that was killed has left."""
    for stray in supervisor.find(settings.MH_HOME, _name(backend)):
        supervisor.stop(stray, grace=1.0)


def clear_away_all(node: str) -> None:
    """Do so for every backend of ``node``, unless somebody is about it now."""
    recent = selectors.now() - timedelta(seconds=_SILENT_SECONDS)
    busy = Operation.objects.filter(
        node=node, lane=Lane.MODELS, state=OperationState.RUNNING, heartbeat_at__gt=recent
    )
    if not busy.exists():
        for backend in selectors.backend_list():
            clear_away(backend)


@contextlib.contextmanager
def _for_the_moment(
    backend: Backend, engine: Engine, checkpoint: Callable[[], object]
) -> Iterator[Target]:
    clear_away(backend)
    try:
        launch = engine.library_launch(selectors.backend_options(backend), free_port())
    except NotImplementedError as exc:
        msg = f"{engine.title} does not run. Start it first: mh {backend.name} start"
        raise BackendNotRunning(msg) from exc
    inst = supervisor.new_instance(settings.MH_HOME, _name(backend))
    try:
        supervisor.spawn(inst, launch)
        target = Target(endpoint=launch.endpoint)
        deadline = time.monotonic() + launch.start_timeout
        while not (supervisor.owns_listener(inst, launch.port) and is_there(backend, target)):
            checkpoint()
            if not supervisor.inspect(inst).alive or time.monotonic() > deadline:
                raise _did_not_start(backend, engine, inst)
            supervisor.wait_exit(inst, POLL_SECONDS)
        yield target
    finally:
        # It holds nothing that an end could harm.
        supervisor.stop(inst, grace=min(2.0, launch.stop_timeout))
        supervisor.prune(settings.MH_HOME, _name(backend), keep=2)


def _did_not_start(
    backend: Backend, engine: Engine, inst: supervisor.Instance
) -> BackendNotRunning:
    reason = engine.failure_reason(supervisor.log_tail(inst, _LOG_LINES))
    why = f": {selectors.mask(reason, backend)}" if reason else "."
    return BackendNotRunning(
        f"{engine.title} does not run, and could not be started for this alone{why} Start it first: "
        f"mh {backend.name} start"
    )
