"""The settings pages of every app, in the admin site's paths and sidebar."""

from functools import cache
from typing import Any

from django.http import HttpRequest
from django.urls import URLPattern, reverse_lazy

from accounts.pages import SECTIONS, Page, in_order


@cache
def pages() -> tuple[Page, ...]:
    """Return all of them, in their order."""
    # Their modules register model pages at the admin site, which asks for these.
    from audit.pages import PAGES as AUDIT
    from backends.pages import PAGES as BACKENDS
    from router.pages import PAGES as ROUTER

    return tuple(in_order([*AUDIT, *BACKENDS, *ROUTER]))


def urls() -> list[URLPattern]:
    """Return the paths of all pages, below ``/admin/``."""
    return [pattern for page in pages() for pattern in page.urls()]


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the sidebar's groups for the one signed in (unfold's ``SIDEBAR.navigation``)."""
    entries = {
        section: [_entry(p) for p in pages() if p.section == section] for section in SECTIONS
    }
    entries["People"] += [
        _model("Users", "group", "accounts_user"),
    ]
    del request
    return [
        {"title": section, "separator": section != SECTIONS[0], "items": items}
        for section, items in entries.items()
    ]


def _entry(page: Page) -> dict[str, Any]:
    return {
        "title": page.title,
        "icon": page.icon,
        "link": reverse_lazy(f"admin:{page.name}"),
        "permission": page.is_for,
    }


def _model(title: str, icon: str, name: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{name}_changelist"),
        "permission": _is_staff,
    }


def _is_staff(request: HttpRequest) -> bool:
    """Return whether the sidebar shows pages that are for owners."""
    return bool(getattr(request.user, "is_staff", False))
