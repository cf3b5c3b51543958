"""The rows of backends themselves, and telling those who watch."""

import logging
from typing import Any

from django.conf import settings

from backends import bus, selectors
from backends.engines import registry
from backends.models import (
    Backend,
)

logger = logging.getLogger(__name__)


def backends_ensure() -> None:
    """Make a row for every engine plugin that has none. Idempotent."""
    for name, engine in registry.engines().items():
        _, created = Backend.objects.get_or_create(
            name=name,
            defaults={"engine": name, "node": settings.MH_NODE, "state_since": selectors.now()},
        )
        if created:
            logger.info("backend %s (%s) added", name, engine.title)
    Backend.objects.exclude(node=settings.MH_NODE).filter(instance_id="").update(
        node=settings.MH_NODE
    )
    selectors.switchboard()


def status_publish() -> None:
    """Send the whole status to every browser that watches."""
    bus.publish({"type": "status", **selectors.status()})


def operation_publish(operation_id: str) -> None:
    """Send one operation to every browser that watches."""
    payload = selectors.operation_payload(selectors.operation_get(operation_id))
    bus.publish({"type": "operation", "operation": payload})


def backend_update(*, name: str, **fields: Any) -> None:
    """Change facts about a backend that are not its state: the start it is on, where it answers."""
    Backend.objects.filter(name=name).update(**fields)
