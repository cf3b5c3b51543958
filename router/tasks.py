"""What the worker does for the router besides: old records go."""

import logging
import threading
from typing import Any, Final

from celery.signals import worker_ready, worker_shutting_down
from django.db import DatabaseError, connections

from router.usage import services

logger = logging.getLogger(__name__)

#: Seconds between two looks for records that are too old.
EVERY: Final = 3600.0
_stopping = threading.Event()


def _on_ready(**_: Any) -> None:
    _stopping.clear()
    threading.Thread(target=_prune, name="mh-usage", daemon=True).start()


def _on_shutdown(**_: Any) -> None:
    _stopping.set()


worker_ready.connect(_on_ready)
worker_shutting_down.connect(_on_shutdown)


def _prune() -> None:
    while not _stopping.wait(60.0):
        try:
            if deleted := services.records_prune():
                logger.info("%d old records of usage are deleted", deleted)
        except DatabaseError as exc:
            logger.warning("old records of usage are not deleted now: %s", exc)
        finally:
            connections.close_all()
        _stopping.wait(EVERY)
