"""The app of who answers a role."""

from django.apps import AppConfig


class RouterConfig(AppConfig):
    name = "router"
