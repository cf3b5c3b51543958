"""The app of who did what."""

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate


class AuditConfig(AppConfig):
    """Listens to what happens in accounts, which does not know of audit."""

    name = "audit"

    def ready(self) -> None:
        """Start listening."""
        from audit import listeners

        listeners.connect()
        post_migrate.connect(_keep_append_only, sender=self, dispatch_uid="audit.append_only")


def _keep_append_only(*, using: str, **_: Any) -> None:
    """Bring the triggers back: SQLite drops them when a migration rebuilds the table."""
    from audit import append_only

    connection = connections[using]
    if append_only.TABLE in connection.introspection.table_names():
        append_only.install(connection)
