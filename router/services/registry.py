"""Writes to the registry."""

from django.db import transaction

from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from router.models import ModelEntry, Role, RoleLink
from router.registry_files import registry_export
from router.registry_schemas import RegistryFile
from router.schemas import parse


def registry_import(*, actor: Actor, data: object) -> RegistryFile:
    """Replace the registry by what ``etc/models.json`` holds, parsed as JSON.

    Raises:
        InvalidRequest, Invalid: it is not what the schema says; the message names the key.
        NotAuthenticated, NotAllowed: ``actor`` may not change the registry.
    """
    require(actor, Permission.REGISTRY_MANAGE, target_type="registry")
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
