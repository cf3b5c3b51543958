"""The registry: models by id, roles as chains of them, each user's own, and the accounts at providers.

All writes are in ``router.services`` and ``router.registry_writes``.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q

from router import usage_models  # noqa: F401 - Django looks for models here


class EntryFields(models.Model):
    """What is known of a model, whoever wrote it down."""

    provider = models.CharField(max_length=64, help_text="active, a backend, or a provider account")
    #: Name the provider knows it by; empty means what it serves at the moment.
    model = models.CharField(max_length=512, default="", blank=True)
    #: Defaults for requests, by the names of ``router.schemas.ChatOptions``.
    options = models.JSONField(default=dict, blank=True)
    #: What becomes of a request while the local backend is off (``router.resolution.WhenOff``).
    when_off = models.CharField(max_length=16, default="next")
    #: What the model can do, of ``router.registry_schemas.CAPABILITIES``; empty means nobody has said.
    capabilities = models.JSONField(default=list, blank=True)
    description = models.CharField(max_length=512, default="", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class ModelEntry(EntryFields):
    """A name applications use for a provider's model with options: ``default.persona``."""

    id = models.CharField(max_length=128, primary_key=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "model entries"

    def __str__(self) -> str:
        return self.id


class Role(models.Model):
    """What applications ask for: ``persona``. Its chain is tried in order."""

    name = models.CharField(max_length=64, primary_key=True)
    #: Win over the options of the chain's entries.
    options = models.JSONField(default=dict, blank=True)
    #: What becomes of a conversation that is too long (``router.resolution.ContextPolicy``).
    context = models.CharField(max_length=16, default="error")

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


class UserModelEntry(EntryFields):
    """A user's own model: for them it wins over the site's of the same id."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="model_entries"
    )
    entry_id = models.CharField(max_length=128)

    class Meta:
        ordering = ["user_id", "entry_id"]
        verbose_name_plural = "user model entries"
        constraints = [
            models.UniqueConstraint(fields=["user", "entry_id"], name="one_entry_per_user_and_id")
        ]

    def __str__(self) -> str:
        return f"{self.entry_id} of user {self.user_id}"


class UserRole(models.Model):
    """What a user's own requests for a role get, instead of the site's chain."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="model_roles"
    )
    name = models.CharField(max_length=64)
    #: Ids of models, theirs or the site's; those that are gone are passed over.
    chain = models.JSONField(default=list)
    options = models.JSONField(default=dict, blank=True)
    #: What becomes of a conversation that is too long (``router.resolution.ContextPolicy``).
    context = models.CharField(max_length=16, default="error")

    class Meta:
        ordering = ["user_id", "name"]
        constraints = [
            models.UniqueConstraint(fields=["user", "name"], name="one_role_per_user_and_name")
        ]

    def __str__(self) -> str:
        return f"{self.name} of user {self.user_id}"


class ProviderAccount(models.Model):
    """An account at a provider on the network: what the plug-in's ``Settings`` ask for."""

    name = models.SlugField(max_length=64, primary_key=True)
    kind = models.CharField(max_length=32, help_text="name of the provider plug-in")
    #: The fields of the plug-in's ``Settings`` that are no secrets, as they are written in files.
    settings = models.JSONField(default=dict, blank=True)
    #: Fernet token over a JSON object of the others (``backends.secrets``).
    secrets = models.TextField(default="", blank=True)
    #: Secrets that were read from the environment, by field: ``{"apiKey": "${HF_TOKEN}"}``, to export.
    references = models.JSONField(default=dict, blank=True)
    #: When the credentials were tried last, whether they worked, and what was found; None: never.
    checked_at = models.DateTimeField(null=True, blank=True)
    check_good = models.BooleanField(null=True, blank=True)
    check_message = models.CharField(max_length=512, default="", blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """The one row of where models run beside this machine; the mode is ``Switchboard.deployment_mode``."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    #: Name of the account that answers for local providers in server mode.
    server_account = models.CharField(max_length=64, default="", blank=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_deployment")]

    def __str__(self) -> str:
        return "deployment"
