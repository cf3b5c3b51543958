"""Users with one of three roles, and their API tokens."""

import secrets
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from knox.models import AbstractAuthToken


class Role(models.TextChoices):
    """What somebody is here. See ``accounts.permissions`` for what each may do."""

    OWNER = "owner", "Owner"
    STANDARD = "standard", "Standard user"
    GUEST = "guest", "Guest"


class MhUserManager(UserManager["User"]):
    """``createsuperuser`` makes an owner."""

    def create_superuser(self, *args: Any, **fields: Any) -> "User":
        """Create a user who is an owner."""
        fields["role"] = Role.OWNER
        return super().create_superuser(*args, **fields)


class User(AbstractUser):  # type: ignore[django-manager-missing]  # knox: auth_token_set
    """A person or program that signs in. Django's staff and superuser flags follow the role."""

    role = models.CharField(max_length=16, choices=Role.choices, default=Role.STANDARD)

    objects: ClassVar[MhUserManager] = MhUserManager()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, with the flags Django's admin looks at set from the role."""
        self.is_staff = self.is_superuser = self.role == Role.OWNER
        update_fields = kwargs.get("update_fields")
        if update_fields is not None and "role" in update_fields:
            kwargs["update_fields"] = {*update_fields, "is_staff", "is_superuser"}
        super().save(*args, **kwargs)

    @property
    def is_owner(self) -> bool:
        """Whether this is an owner of the site."""
        return self.role == Role.OWNER and self.is_active


def token_public_id() -> str:
    """Return a short random name for a token, safe to show."""
    return f"tok_{secrets.token_hex(6)}"


class Token(AbstractAuthToken):  # type: ignore[misc]  # knox has no types
    """A bearer token; only its digest is kept (django-rest-knox)."""

    public_id = models.CharField(max_length=24, unique=True, default=token_public_id)
    name = models.CharField(max_length=100)
    #: Permission names this token is limited to; empty means all its user's permissions.
    scopes = models.JSONField(default=list, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"
