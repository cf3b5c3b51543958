"""The app of engines we start and stop."""

from django.apps import AppConfig


class BackendsConfig(AppConfig):
    """Engines we start and stop."""

    name = "backends"
