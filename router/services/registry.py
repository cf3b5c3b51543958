"""Writes to the registry."""

from typing import Any

from django.db import transaction

from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from router.models import EntryFields, ModelEntry, Role, RoleLink
from router.registry_schemas import RegistryFile
from router.resolution import ContextPolicy, WhenOff
from router.schemas import parse


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
            ModelEntry.objects.update_or_create(id=entry_id, defaults=entry.row())
        roles = file.long_roles()
        Role.objects.bulk_create(
            [
                Role(name=name, options=role.options.given(), context=role.context)
                for name, role in roles.items()
            ]
        )
        RoleLink.objects.bulk_create(
            [
                RoleLink(role_id=role, entry_id=entry, position=position)
                for role, said in roles.items()
                for position, entry in enumerate(said.chain)
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
    chains: dict[str, list[str]] = {}
    for role, entry in RoleLink.objects.values_list("role_id", "entry_id"):
        chains.setdefault(role, []).append(entry)
    return {
        "version": "1.0.0",
        "models": {row.id: entry_export(row) for row in ModelEntry.objects.all()},
        "roles": {
            row.name: role_export(chains.get(row.name, []), row.options, row.context)
            for row in Role.objects.all()
        },
    }


def entry_export(row: EntryFields) -> dict[str, Any]:
    """Return a model as the file has it: without what is as it is by default."""
    entry = {
        "provider": row.provider,
        "model": row.model,
        "options": dict(row.options),
        "whenOff": "" if row.when_off == WhenOff.NEXT else row.when_off,
        "capabilities": list(row.capabilities),
        "description": row.description,
    }
    return {key: value for key, value in entry.items() if value}


def role_export(chain: list[str], options: dict[str, Any], context: str) -> Any:
    """Return a role as the file has it: a list where its chain is all there is to say."""
    role: dict[str, Any] = {"chain": chain}
    if options:
        role["options"] = options
    if context != ContextPolicy.ERROR:
        role["context"] = context
    return role if len(role) > 1 else chain
