"""Writes to the registry."""

from typing import Any

from django.db import transaction

from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from router.models import ModelEntry, Role, RoleLink
from router.schemas import RegistryFile, parse


def registry_import(*, actor: Actor, data: object) -> RegistryFile:
    """Replace the registry by what ``etc/models.json`` holds, parsed as JSON.

    Raises:
        InvalidRequest, Invalid: it is not what the schema says; the message names the key.
        NotAuthenticated, NotAllowed: ``actor`` may not change the registry.
    """
    require(actor, Permission.BACKENDS_OPERATE, target_type="registry")
    file = parse(RegistryFile, data)
    with transaction.atomic():
        before = registry_export()
        RoleLink.objects.all().delete()
        Role.objects.all().delete()
        ModelEntry.objects.exclude(id__in=file.models).delete()
        for entry_id, entry in file.models.items():
            values = entry.model_dump(exclude={"options"})
            values["options"] = entry.options.given()
            ModelEntry.objects.update_or_create(id=entry_id, defaults=values)
        Role.objects.bulk_create([Role(name=name) for name in file.roles])
        RoleLink.objects.bulk_create(
            [
                RoleLink(role_id=role, entry_id=entry, position=position)
                for role, chain in file.roles.items()
                for position, entry in enumerate(chain)
            ]
        )
        event_record(
            actor=actor,
            event="registry.imported",
            category=Category.CONFIGURATION,
            target_type="registry",
            before=before,
            after=registry_export(),
        )
    return file


def registry_export() -> dict[str, Any]:
    """Return the registry in the form of ``etc/models.json``."""
    links: dict[str, list[str]] = {name: [] for name in Role.objects.values_list("name", flat=True)}
    for role, entry in RoleLink.objects.values_list("role_id", "entry_id"):
        links[role].append(entry)
    return {
        "version": "1.0.0",
        "models": {row.id: _entry_export(row) for row in ModelEntry.objects.all()},
        "roles": links,
    }


def _entry_export(row: ModelEntry) -> dict[str, Any]:
    entry: dict[str, Any] = {"provider": row.provider}
    if row.model:
        entry["model"] = row.model
    if row.options:
        entry["options"] = dict(row.options)
    if row.description:
        entry["description"] = row.description
    return entry
