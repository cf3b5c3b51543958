"""Audit events. Append-only: the model refuses changes, and so do triggers in the database."""

import uuid
from typing import Any, NoReturn

from django.conf import settings
from django.db import models


class Category(models.TextChoices):
    """What an event is about."""

    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    BACKEND = "backend"
    OPERATION = "operation"
    CONFIGURATION = "configuration"
    TOKEN = "token"  # noqa: S105 - a category, not a secret
    USER = "user"
    SYSTEM = "system"


class Level(models.TextChoices):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Outcome(models.TextChoices):
    """How it ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    REFUSED = "refused"


class Event(models.Model):
    """One thing that happened, who did it, and what it changed."""

    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    created_at = models.DateTimeField(db_index=True)
    event = models.CharField(
        max_length=64, db_index=True, help_text="dotted name: operation.started"
    )
    category = models.CharField(max_length=16, choices=Category.choices, db_index=True)
    level = models.CharField(max_length=8, choices=Level.choices, default=Level.INFO)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.SUCCESS)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    actor_name = models.CharField(max_length=150)
    surface = models.CharField(max_length=16)
    source_address = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=128, blank=True, db_index=True)
    target_type = models.CharField(max_length=32, blank=True)
    target_id = models.CharField(max_length=128, blank=True, db_index=True)
    message = models.TextField(blank=True)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    #: SHA-256 over the previous event's hash and this event's content, hexadecimal.
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64, unique=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.created_at:%Y-%m-%d %H:%M:%S} {self.actor_name} {self.event}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; an existing event cannot be saved again."""
        if not self._state.adding:
            self._refuse()
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refuse."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        msg = "audit events are append-only"
        raise TypeError(msg)
