"""What the worker of a GPU machine does: run operations when woken, and look by itself once a second.

The database is the truth about operations; Celery's message only wakes. So an operation asked for
while no worker ran, or left by one that was killed, is found by the next one that lives.
"""

import logging
import threading
from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.db import DatabaseError, connections

from accounts.errors import MhError
from backends import bus
from backends.models import Lane
from backends.operations import library
from backends.operations.rehearsal import rehearse
from backends.operations.runner import has_work, run_operations

logger = logging.getLogger(__name__)

_stopping = threading.Event()


@shared_task(name="backends.run_operations")
def run_operations_task(node: str) -> None:
    """Run what waits for ``node``; a download is nobody's wait, not even a shutdown's."""
    _run_beside(node, Lane.MODELS)
    run_operations(node, Lane.GPU)


@worker_ready.connect
def _on_ready(**_: Any) -> None:
    _stopping.clear()
    threading.Thread(target=_pulse, name="mh-pulse", daemon=True).start()
    threading.Thread(
        target=rehearse, args=(settings.MH_NODE,), name="mh-rehearsal", daemon=True
    ).start()


@worker_shutting_down.connect
def _on_shutdown(**_: Any) -> None:
    _stopping.set()
    bus.worker_gone(settings.MH_NODE)


def _pulse() -> None:
    """Say once a second that this worker lives, and pick up what waits in every lane."""
    _clear_away()
    while not _stopping.is_set():
        bus.worker_beat(settings.MH_NODE)
        try:
            for lane in Lane:
                _run_beside(settings.MH_NODE, lane)
        except DatabaseError as exc:
            logger.warning("cannot look for operations: %s", exc)
        finally:
            connections.close_all()
        _stopping.wait(1.0)


def _clear_away() -> None:
    """End the servers for the moment that a worker before this one has left."""
    try:
        library.clear_away_all(settings.MH_NODE)
    except (DatabaseError, MhError) as exc:
        logger.warning("leftovers of downloads: %s", exc)
    finally:
        connections.close_all()


def _run_beside(node: str, lane: Lane) -> None:
    if has_work(node, lane):
        threading.Thread(
            target=_run_here, args=(node, lane), name=f"mh-runner-{lane}", daemon=True
        ).start()


def _run_here(node: str, lane: Lane) -> None:
    try:
        run_operations(node, lane)
    finally:
        connections.close_all()
