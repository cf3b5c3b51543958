"""The composition root as a Django app: its management commands, templates and static files."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "mhsite"
