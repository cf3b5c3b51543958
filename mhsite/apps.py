"""The composition root as a Django app: its management commands, templates and static files."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    """The site."""

    name = "mhsite"

    def ready(self) -> None:
        """Make our Celery app the current one in every process that sets Django up."""
        from mhsite import celery

        celery.app.set_current()
        celery.app.set_default()
