"""Operations in the admin: to read, never to change."""

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import display

from backends.cards import STEP_WORDS, duration_text
from backends.models import Operation, OperationStep


class ReadOnly:
    """A model admin that shows, and changes nothing."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody adds rows by hand."""
        del request, obj
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows by hand."""
        del request, obj
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        del request, obj
        return False


_STATE_LABELS = {
    "succeeded": "success",
    "done": "success",
    "running": "info",
    "failed": "danger",
    "rolled_back": "warning",
    "cancelled": "warning",
}


class OperationStepInline(ReadOnly, TabularInline):
    """The steps of an operation, in the order they were taken."""

    model = OperationStep
    verbose_name_plural = "Steps"
    fields = readonly_fields = ("step", "state", "message", "began", "took")
    extra = 0
    can_delete = False
    hide_title = True

    @admin.display(description="Step")
    def step(self, step: OperationStep) -> str:
        """Return what the step does, in words."""
        return STEP_WORDS.get(step.name, step.name.capitalize())

    @admin.display(description="Began")
    def began(self, step: OperationStep) -> str:
        """Return when it began, to the second."""
        return _moment(step.started_at)

    @admin.display(description="Took")
    def took(self, step: OperationStep) -> str:
        """Return how long the step took."""
        return _span(step)


@admin.register(Operation)
class OperationAdmin(ReadOnly, ModelAdmin):
    """What was asked of the engines, by whom, and how it went."""

    list_display = ("asked", "what", "outcome", "took", "by", "reason")
    list_filter = ("state", "kind", "backend")
    search_fields = ("id", "request_id", "requested_by_name")
    ordering = ("-created_at",)
    list_per_page = 50
    inlines = (OperationStepInline,)
    fields = readonly_fields = (
        "what",
        "state",
        "reason",
        "detail",
        "by",
        "source_address",
        "request_id",
        "asked",
        "began",
        "ended",
        "took",
    )

    @admin.display(description="Asked", ordering="created_at")
    def asked(self, operation: Operation) -> str:
        """Return when it was asked, to the second."""
        return _moment(operation.created_at)

    @admin.display(description="Began")
    def began(self, operation: Operation) -> str:
        """Return when a worker took it up."""
        return _moment(operation.started_at)

    @admin.display(description="Ended")
    def ended(self, operation: Operation) -> str:
        """Return when it ended."""
        return _moment(operation.finished_at)

    @admin.display(description="Operation", ordering="kind")
    def what(self, operation: Operation) -> str:
        """Return what was asked of which backend."""
        return f"{operation.get_kind_display()} {operation.backend_id}"

    @display(description="State", ordering="state", label=_STATE_LABELS)
    def outcome(self, operation: Operation) -> tuple[str, str]:
        """Return the state, coloured."""
        return operation.state, operation.get_state_display()

    @admin.display(description="Took")
    def took(self, operation: Operation) -> str:
        """Return how long it took from start to end."""
        return _span(operation)

    @admin.display(description="By", ordering="requested_by_name")
    def by(self, operation: Operation) -> str:
        """Return who asked, as they were called then."""
        return operation.requested_by_name

    @admin.display(description="Reason")
    def reason(self, operation: Operation) -> str:
        """Return why it did not succeed."""
        return str((operation.error or {}).get("message", ""))

    @admin.display(description="Engine's own line")
    def detail(self, operation: Operation) -> str:
        """Return the line of the engine's log that says why."""
        return str((operation.error or {}).get("detail", ""))


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def _span(row: Operation | OperationStep) -> str:
    if row.started_at is None or row.finished_at is None:
        return ""
    return duration_text((row.finished_at - row.started_at).total_seconds())
