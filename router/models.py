"""The registry: models by id, and roles as chains of them. All writes are in ``router.services``."""

from django.db import models

from router.usage_models import UsageRecord, UsageTotal, UserQuota

__all__ = ["ModelEntry", "Role", "RoleLink", "UsageRecord", "UsageTotal", "UserQuota"]


class ModelEntry(models.Model):
    """A name applications use for a provider's model with options: ``default.persona``."""

    id = models.CharField(max_length=128, primary_key=True)
    provider = models.CharField(max_length=32, help_text="active, a backend, or a cloud provider")
    #: Name the provider knows it by; empty means what it serves at the moment.
    model = models.CharField(max_length=512, default="", blank=True)
    #: Defaults for requests, by the names of ``router.schemas.ChatOptions``.
    options = models.JSONField(default=dict, blank=True)
    description = models.CharField(max_length=512, default="", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "model entries"

    def __str__(self) -> str:
        return self.id


class Role(models.Model):
    """What applications ask for: ``persona``. Its chain is tried in order."""

    name = models.CharField(max_length=64, primary_key=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class RoleLink(models.Model):
    """One link of a role's chain."""

    role = models.ForeignKey(Role, on_delete=models.CASCADE, related_name="links")
    entry = models.ForeignKey(ModelEntry, on_delete=models.CASCADE, related_name="links")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["role_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["role", "position"], name="one_link_per_position"),
            models.UniqueConstraint(fields=["role", "entry"], name="one_link_per_entry"),
        ]

    def __str__(self) -> str:
        return f"{self.role_id}[{self.position}] {self.entry_id}"
