"""Writes to roles, the site's and users' own."""

from typing import Any, Final

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import Conflict, Invalid
from audit.models import Category
from audit.services import event_record
from router.errors import UnknownRole
from router.models import ModelEntry, Role, RoleLink, UserModelEntry, UserRole
from router.registry_files import role_export
from router.registry_schemas import RoleFile, role_name_check
from router.schemas import ROLE_NAME
from router.services.scopes import Scope, options_check, person, scope_open

#: Roles of their own that a user may have.
OWN_MAX: Final = 64


def role_set(*, actor: Actor, name: str, data: RoleFile, scope: Scope | None = None) -> Scope:
    """Give a role its chain, options and context policy, whatever it had; return whose role it is.

    Raises:
        NotAuthenticated, NotAllowed, SitesOption.
        Invalid: the chain names a model that is not there, or no role can have this name.
    """
    scope = scope_open(actor, scope, "role", name)
    role_name_check(name)
    options_check(actor, scope, data.options, "role", name)
    with transaction.atomic():
        _chain_check(actor, scope, data.chain)
        before = _before(actor, scope, name)
        if scope == Scope.SITE:
            _site_role_write(name, data)
        else:
            _own_role_write(actor, name, data)
        after = role_export(data.chain, data.options.given(), data.context)
        if before != after:
            _record(actor, "registry.role_set", (scope, name), before, after)
    return scope


def _chain_check(actor: Actor, scope: Scope, chain: list[str]) -> None:
    there = set(ModelEntry.objects.filter(pk__in=chain).values_list("id", flat=True))
    if scope == Scope.MINE:
        own = UserModelEntry.objects.filter(user=person(actor), entry_id__in=chain)
        there |= set(own.values_list("entry_id", flat=True))
    for number, entry in enumerate(chain):
        if entry not in there:
            msg = f"There is no model {entry!r}. Add it first, or take one that GET /api/models lists."
            raise Invalid(msg, code="unknown_model", param=f"chain[{number}]")


def _before(actor: Actor, scope: Scope, name: str) -> Any:
    """Return what is set for the role, as the file has it; None where nothing is. Locks it."""
    row: Role | UserRole | None
    if scope == Scope.SITE:
        row = Role.objects.select_for_update().filter(pk=name).first()
        chain = list(RoleLink.objects.filter(role_id=name).values_list("entry_id", flat=True))
    else:
        own = UserRole.objects.select_for_update().filter(user=person(actor), name=name)
        row = own.first()
        chain = list(row.chain) if row else []
    return None if row is None else role_export(chain, row.options, row.context)


def _site_role_write(name: str, data: RoleFile) -> None:
    values = {"options": data.options.given(), "context": data.context}
    role, _ = Role.objects.update_or_create(name=name, defaults=values)
    role.links.all().delete()
    RoleLink.objects.bulk_create(
        [
            RoleLink(role=role, entry_id=entry, position=position)
            for position, entry in enumerate(data.chain)
        ]
    )


def _own_role_write(actor: Actor, name: str, data: RoleFile) -> None:
    user = person(actor)
    others = UserRole.objects.filter(user=user).exclude(name=name)
    if others.count() >= OWN_MAX:
        raise Conflict(f"You have {OWN_MAX} roles of your own, which is the most. Unset some.")
    UserRole.objects.update_or_create(
        user=user,
        name=name,
        defaults={
            "chain": data.chain,
            "options": data.options.given(),
            "context": data.context,
        },
    )


def role_unset(*, actor: Actor, name: str, scope: Scope | None = None) -> Scope:
    """Forget what is set for a role. One's own gives way to the site's; a shipped one to the active backend.

    Raises:
        NotAuthenticated, NotAllowed.
        UnknownRole: nothing is set for it.
    """
    scope = scope_open(actor, scope, "role", name)
    with transaction.atomic():
        before = _before(actor, scope, name) if ROLE_NAME.fullmatch(name) else None
        if before is None:
            whose = "the site" if scope == Scope.SITE else "you"
            msg = f"Nothing is set for the role {name[:64]!r} by {whose}. GET /api/roles lists all roles."
            raise UnknownRole(msg)
        if scope == Scope.SITE:
            Role.objects.filter(pk=name).delete()
        else:
            UserRole.objects.filter(user=person(actor), name=name).delete()
        _record(actor, "registry.role_unset", (scope, name), before)
    return scope


def _record(
    actor: Actor, event: str, which: tuple[Scope, str], before: Any, after: Any = None
) -> None:
    scope, name = which
    event_record(
        actor=actor,
        event=event,
        category=Category.CONFIGURATION,
        target_type="role",
        target_id=name,
        message="" if scope == Scope.SITE else "their own",
        before=_as_object(before),
        after=_as_object(after),
    )


def _as_object(role: Any) -> dict[str, Any] | None:
    return {"chain": role} if isinstance(role, list) else role
