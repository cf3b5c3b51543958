"""The app of who answers a role."""

from django.apps import AppConfig


class RouterConfig(AppConfig):
    """Who answers a role."""

    name = "router"

    def ready(self) -> None:
        """Add our parts to the pages of the rooms below."""
        from accounts.pages import contribute
        from router.pages import SECTIONS

        contribute(*SECTIONS)
