"""Engines and `mh up`: a demo for machines that have nothing, and what becomes of engines at exit.

Django must be set up.
"""

import logging
import time
from collections.abc import Callable

from django.conf import settings

from accounts.actors import Actor
from accounts.errors import MhError
from backends import gpu, selectors, services, standby, supervisor
from backends.models import OPEN_OPERATION_STATES, Backend, Lane, Operation
from backends.supervisor import Instance

logger = logging.getLogger(__name__)

#: The small model that runs anywhere; mh brings it along with vLLM's CPU build.
DEMO_BACKEND = "vllm"
DEMO_MODEL = "SmolLM2-135M-Instruct"
#: Seconds that stopping all engines may take at exit before their processes are killed.
STOP_SECONDS = 60.0
#: Kinds of operations that, cancelled, have what ran before run again.
_ROLLED_BACK = frozenset({"switch", "restart", "change_model", "apply"})


def demo_wanted() -> bool:
    """Return whether this machine has neither a GPU nor an engine of its owner's, and may have the demo."""
    if not settings.MH_DEMO or gpu.gpus():
        return False
    others = (row for row in selectors.backend_list() if row.name != DEMO_BACKEND)
    return not any(selectors.detection_now(row)["installed"] for row in others)


def demo_choose() -> None:
    """Make the demo model vLLM's model, where the configured one is not on this machine."""
    backend = selectors.backend_get(DEMO_BACKEND)
    configured = str(selectors.backend_options(backend).model)
    if configured != DEMO_MODEL and not _is_here(configured):
        services.backend_configure(
            actor=Actor.system(), name=DEMO_BACKEND, options={"model": DEMO_MODEL}
        )


def demo_is_installed() -> bool:
    """Return whether vLLM and the configured model are on this machine."""
    backend = selectors.backend_get(DEMO_BACKEND)
    if not selectors.detection_now(backend)["installed"]:
        return False
    return _is_here(str(selectors.backend_options(backend).model))


def _is_here(model: str) -> bool:
    return any(
        model in {found.id, found.path} and not found.problem
        for found in selectors.backend_models(DEMO_BACKEND)
    )


def running_instances() -> set[Instance]:
    """Return every start of an engine of ours whose processes live."""
    return {
        instance
        for row in selectors.backend_list()
        for instance in supervisor.find(settings.MH_HOME, row.name)
    }


def standbys_end() -> None:
    """End every process that only waits to become an engine: without the site nobody chooses one."""
    standby.end_all(settings.MH_HOME)


class Departure:
    """Stops the engines started since ``before`` was taken."""

    def __init__(self, before: set[Instance], say: Callable[[str], None]) -> None:
        self._before = before
        self._say = say

    def stop(self, *, hurry: Callable[[], bool]) -> bool:
        """Stop them as operations, which the worker runs; return whether nothing is left of them.

        Args:
            hurry: returns True once somebody does not want to wait any longer.
        """
        self._cancel_open(hurry)
        names = sorted({instance.backend for instance in self._mine()})
        if not names:
            return True
        self._say(f"Stopping {', '.join(names)}…")
        foreground = not selectors.worker_alive()
        asked = [str(op.pk) for name in names if (op := _ask_to_stop(name, foreground=foreground))]
        if foreground and asked:
            from backends.operations.runner import run_operations

            run_operations(settings.MH_NODE, Lane.GPU)
        self._wait(asked, hurry)
        return not self._mine()

    def kill(self) -> None:
        """End what is left of them, without the database: the last resort."""
        for instance in self._mine():
            try:
                supervisor.stop(instance, grace=1.0)
            except MhError as exc:
                self._say(exc.message)

    def _mine(self) -> set[Instance]:
        return running_instances() - self._before

    def _cancel_open(self, hurry: Callable[[], bool]) -> None:
        """End what is under way. What is rolled back may start an engine again: that is waited for."""
        rows = list(Operation.objects.filter(state__in=OPEN_OPERATION_STATES).exclude(kind="stop"))
        for row in rows:
            services.operation_cancel(actor=Actor.system(), operation_id=str(row.pk))
        if selectors.worker_alive():
            self._wait([str(row.pk) for row in rows if row.kind in _ROLLED_BACK], hurry)

    def _wait(self, asked: list[str], hurry: Callable[[], bool]) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and not hurry():
            running = Operation.objects.filter(pk__in=asked, state__in=OPEN_OPERATION_STATES)
            if not running.exists():
                return
            time.sleep(0.1)


def _ask_to_stop(name: str, *, foreground: bool) -> Operation | None:
    try:
        return services.backend_stop(actor=Actor.system(), name=name, foreground=foreground)
    except MhError as exc:
        logger.warning("%s could not be asked to stop: %s", name, exc.message)
        return None


def any_installed() -> bool:
    """Return whether any engine is installed on this machine."""
    return any(selectors.detection_now(row)["installed"] for row in Backend.objects.all())
