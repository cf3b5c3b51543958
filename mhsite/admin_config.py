"""Django's admin, with our site as the default one.

Its pages are loaded with the URLs: the command line, the worker and the observer show none, and would
take twice as long to start.
"""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks


class MhAdminConfig(SimpleAdminConfig):
    """Makes ``django.contrib.admin.site`` an ``MhAdminSite``."""

    default_site = "mhsite.sites.MhAdminSite"

    def ready(self) -> None:
        """Register the admin's checks; they look at pages, so these are loaded for them."""
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(
    app_configs: Sequence[AppConfig] | None, **more: Any
) -> Sequence[checks.CheckMessage]:
    from django.contrib import admin

    admin.autodiscover()
    return check_admin_app(app_configs, **more)
