"""Events in the admin: to read, never to change."""

import json
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from accounts.permissions import Permission, is_allowed
from audit.models import Event


@admin.register(Event)
class EventAdmin(ModelAdmin):
    """Who did what, newest first."""

    list_display = ("created_at", "actor_name", "event", "show_outcome", "target", "message")
    list_filter = ("category", "level", "outcome", "surface")
    search_fields = ("event", "actor_name", "target_id", "message", "request_id")
    date_hierarchy = "created_at"
    ordering = ("-id",)
    list_per_page = 50
    show_full_result_count = False
    actions = None
    fields = (
        "created_at", "event", "category", "level", "outcome", "message", "actor_name", "surface",
        "source_address", "request_id", "target", "show_before", "show_after", "previous_hash",
        "hash",
    )  # fmt: skip

    @display(
        description="outcome",
        ordering="outcome",
        label={"success": "success", "failure": "danger", "refused": "warning"},
    )
    def show_outcome(self, event: Event) -> str:
        """Show how it ended."""
        return event.outcome

    @admin.display(description="target")
    def target(self, event: Event) -> str:
        """Show what it was done to."""
        return f"{event.target_type} {event.target_id}".strip()

    @admin.display(description="before")
    def show_before(self, event: Event) -> SafeString | str:
        """Show what the thing was."""
        return _pretty(event.before)

    @admin.display(description="after")
    def show_after(self, event: Event) -> SafeString | str:
        """Show what it became."""
        return _pretty(event.after)

    def has_view_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Those who may read the audit."""
        del obj
        user: Any = request.user
        return bool(user.is_authenticated and is_allowed(user, Permission.AUDIT_READ))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """As for one event."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        del request
        return False

    def has_change_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Nobody."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Event | None = None) -> bool:
        """Nobody."""
        del request, obj
        return False


def _pretty(value: dict[str, Any] | None) -> SafeString | str:
    if value is None:
        return "-"
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))
