"""Django's admin, with our site as the default one."""

from django.contrib.admin.apps import AdminConfig


class MhAdminConfig(AdminConfig):
    """Makes ``django.contrib.admin.site`` an ``MhAdminSite``."""

    default_site = "mhsite.sites.MhAdminSite"
