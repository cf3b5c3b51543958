"""What requests cost: one row for each, sums of them all, and how much somebody may use."""

import uuid
from typing import Final

from django.conf import settings
from django.db import models

#: Milliseconds up to which a request falls into each bucket of the histograms; above the last is one more.
BUCKETS_MS: Final = (
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000,
)  # fmt: skip


def buckets_empty() -> list[int]:
    """Return counts for the buckets of a histogram, none of them filled."""
    return [0] * (len(BUCKETS_MS) + 1)


class UsageRecord(models.Model):
    """One chat, completion or the like of somebody who may ask, when it had ended."""

    #: Made where the request ended, so that a batch that is written again is not counted twice.
    uid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    #: When the request came.
    at = models.DateTimeField(db_index=True)
    # No constraint: a record may be written after its user was deleted.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    user_name = models.CharField(max_length=150)
    token_id = models.CharField(max_length=24, blank=True, default="")
    #: As in ``accounts.actors.Surface``.
    surface = models.CharField(max_length=16)
    request_id = models.CharField(max_length=128, blank=True, default="", db_index=True)
    role = models.CharField(max_length=64, blank=True, default="")
    entry = models.CharField(max_length=128, blank=True, default="")
    provider = models.CharField(max_length=64, blank=True, default="")
    backend = models.CharField(max_length=64, blank=True, default="")
    #: What served it, never a client's word for it; empty where nothing did.
    model = models.CharField(max_length=512, blank=True, default="")
    #: chat, completion, embedding, …
    kind = models.CharField(max_length=16)
    #: done, cancelled, or the code of the error.
    outcome = models.CharField(max_length=64)
    # Null: the engine did not say.
    prompt_tokens = models.BigIntegerField(null=True, blank=True)
    completion_tokens = models.BigIntegerField(null=True, blank=True)
    reasoning_tokens = models.BigIntegerField(null=True, blank=True)
    total_tokens = models.BigIntegerField(null=True, blank=True)
    #: Whether tokens are counted from the pieces that came, since the engine did not get to say.
    estimated = models.BooleanField(default=False, db_default=False)
    # Milliseconds since it came, as in ``router.events.Timings``.
    queued_ms = models.FloatField(null=True, blank=True)
    ttft_ms = models.FloatField(null=True, blank=True)
    total_ms = models.FloatField()
    #: How many engines were tried.
    attempts = models.PositiveSmallIntegerField(default=1)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["user", "at"], name="usage_user_at"),
            models.Index(fields=["model", "at"], name="usage_model_at"),
            models.Index(fields=["role", "at"], name="usage_role_at"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.user_name} {self.model} {self.outcome}"


class UsageTotal(models.Model):
    """Sums over all requests ever with the same labels, for Prometheus; written with the records."""

    provider = models.CharField(max_length=64, blank=True)
    backend = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=512, blank=True)
    surface = models.CharField(max_length=16)
    outcome = models.CharField(max_length=64)
    requests = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    # Of each time: its sum in milliseconds, and how many requests fell into each of ``BUCKETS_MS``.
    total_ms = models.FloatField(default=0)
    total_buckets = models.JSONField(default=buckets_empty)
    ttft_ms = models.FloatField(default=0)
    ttft_buckets = models.JSONField(default=buckets_empty)
    queued_ms = models.FloatField(default=0)
    queued_buckets = models.JSONField(default=buckets_empty)

    class Meta:
        ordering = ["provider", "backend", "model", "surface", "outcome"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "backend", "model", "surface", "outcome"],
                name="one_total_per_labels",
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.model} {self.surface} {self.outcome}"


class UserQuota(models.Model):
    """How much one user may use. Null: as the site's settings say; 0: as much as they like."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="quota", primary_key=True
    )
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_day = models.PositiveBigIntegerField(null=True, blank=True)
    tokens_per_month = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["user__username"]

    def __str__(self) -> str:
        return f"quota of {self.user.get_username()}"
