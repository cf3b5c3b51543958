"""The app of who answers a role."""

from django.apps import AppConfig


class RouterConfig(AppConfig):
    """Who answers a role."""

    name = "router"
