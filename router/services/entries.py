"""Writes to models, the site's and users' own."""

from typing import Any, Final

from django.db import IntegrityError, transaction

from accounts.actors import Actor
from accounts.errors import Conflict, Invalid
from audit.models import Category
from audit.services import event_record
from backends import selectors as backends
from router.errors import AlreadyThere, InUse, UnknownModel
from router.models import (
    EntryFields,
    ModelEntry,
    ProviderAccount,
    RoleLink,
    UserModelEntry,
    UserRole,
)
from router.providers.registry import providers
from router.registry_files import entry_export
from router.registry_schemas import EntryChange, EntryCreate, EntryFile
from router.resolution import ACTIVE
from router.schemas import ENTRY_ID, ChatOptions, unpinned
from router.services.scopes import Scope, options_check, person, scope_open

#: Models of their own that a user may have: a page of them, not a disk.
OWN_MAX: Final = 256


def model_entry_create(
    *, actor: Actor, data: EntryCreate, scope: Scope | None = None
) -> EntryFields:
    """Add a model.

    Raises:
        NotAuthenticated, NotAllowed, SitesOption, AlreadyThere.
        Invalid: its provider is not known, or not a user's to name.
    """
    scope = scope_open(actor, scope, "model", data.id)
    options_check(actor, scope, data.options, "model", data.id)
    _provider_check(scope, data)
    try:
        with transaction.atomic():
            row = _new(actor, scope, data)
            _record(actor, "registry.model_created", (scope, data.id), after=entry_export(row))
    except IntegrityError as exc:
        msg = f"There is a model {data.id} already. Change it, or take another id."
        raise AlreadyThere(msg, param="id") from exc
    return row


def _new(actor: Actor, scope: Scope, data: EntryCreate) -> EntryFields:
    if scope == Scope.SITE:
        return ModelEntry.objects.create(id=data.id, **data.row())
    user = person(actor)
    if UserModelEntry.objects.filter(user=user).count() >= OWN_MAX:
        raise Conflict(f"You have {OWN_MAX} models of your own, which is the most. Delete some.")
    return UserModelEntry.objects.create(user=user, entry_id=data.id, **data.row())


def model_entry_update(
    *, actor: Actor, entry_id: str, data: EntryChange, scope: Scope | None = None
) -> EntryFields:
    """Change what ``data`` says of a model.

    Raises:
        NotAuthenticated, NotAllowed, SitesOption, UnknownModel.
        Invalid: its provider is not known, or not a user's to name.
    """
    scope = scope_open(actor, scope, "model", entry_id)
    options_check(actor, scope, data.options or ChatOptions(), "model", entry_id)
    with transaction.atomic():
        row = _locked(actor, scope, entry_id)
        before = entry_export(row)
        merged = _merged(_allowed(scope, before), data)
        _provider_check(scope, merged)
        for name, value in merged.row().items():
            setattr(row, name, value)
        row.save()
        after = entry_export(row)
        if after != before:
            _record(actor, "registry.model_changed", (scope, entry_id), before, after)
    return row


def _allowed(scope: Scope, before: dict[str, Any]) -> dict[str, Any]:
    """Return what was said of a model without the options that a user's own may not have any more."""
    if scope == Scope.SITE or "options" not in before:
        return before
    return {**before, "options": unpinned(before["options"])}


def _merged(before: dict[str, Any], data: EntryChange) -> EntryFile:
    """Return the model with the changes; null puts one back to its default."""
    values = EntryFile.model_validate(before).model_dump()
    for name in data.model_fields_set:
        value = getattr(data, name)
        if value is None and name == "provider":
            raise Invalid("provider cannot be empty.", param="provider")
        values[name] = EntryFile.model_fields[name].get_default() if value is None else value
    return EntryFile.model_validate(values)


def model_entry_delete(*, actor: Actor, entry_id: str, scope: Scope | None = None) -> None:
    """Delete a model no role needs. Users' roles pass over what is gone.

    Raises:
        NotAuthenticated, NotAllowed, UnknownModel.
        InUse: roles need it; the message names them.
    """
    scope = scope_open(actor, scope, "model", entry_id)
    with transaction.atomic():
        row = _locked(actor, scope, entry_id)
        used = _roles_with(row, entry_id)
        if used:
            raise InUse(
                f"{entry_id} is in the chain of {', '.join(used)}. Set {'this role' if len(used) == 1 else 'these roles'}"
                " to other models first.",
                code="model_in_use",
            )
        before = entry_export(row)
        row.delete()
        _record(actor, "registry.model_deleted", (scope, entry_id), before)


def _roles_with(row: EntryFields, entry_id: str) -> list[str]:
    if isinstance(row, UserModelEntry):
        if ModelEntry.objects.filter(pk=entry_id).exists():
            return []  # the site's of this id takes its place
        roles = UserRole.objects.filter(user_id=row.user_id)
        return [role.name for role in roles if entry_id in role.chain]
    return list(
        RoleLink.objects.filter(entry_id=entry_id).values_list("role_id", flat=True).distinct()
    )


def _locked(actor: Actor, scope: Scope, entry_id: str) -> EntryFields:
    row: EntryFields | None
    if not ENTRY_ID.fullmatch(entry_id):
        row = None
    elif scope == Scope.SITE:
        row = ModelEntry.objects.select_for_update().filter(pk=entry_id).first()
    else:
        own = UserModelEntry.objects.select_for_update().filter(
            user=person(actor), entry_id=entry_id
        )
        row = own.first()
    if row is None:
        whose = "The site has" if scope == Scope.SITE else "You have"
        msg = f"{whose} no model {entry_id[:128]!r}. GET /api/models lists all of them."
        raise UnknownModel(msg)
    return row


def _record(
    actor: Actor,
    event: str,
    which: tuple[Scope, str],
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    scope, entry_id = which
    event_record(
        actor=actor,
        event=event,
        category=Category.CONFIGURATION,
        target_type="model",
        target_id=entry_id,
        message="" if scope == Scope.SITE else "their own",
        before=before,
        after=after,
    )


# -- providers a model may name


def _provider_check(scope: Scope, entry: EntryFile) -> None:
    """Raise ``Invalid`` where nothing is called as the entry's provider is, or it is not a user's to name."""
    local = {ACTIVE, *(row.name for row in backends.backend_list())}
    if entry.provider in local:
        return
    accounts = set(ProviderAccount.objects.values_list("name", flat=True))
    if scope == Scope.MINE:
        _offer_check(entry, accounts)
    elif entry.provider not in accounts | set(providers()):
        there = ", ".join([*sorted(local), *sorted(accounts)])
        msg = f"There is no provider {entry.provider!r}. There are: {there}. Others need an account first: POST /api/providers."
        raise Invalid(msg, code="unknown_provider", param="provider")


def _offer_check(entry: EntryFile, accounts: set[str]) -> None:
    """Raise ``Invalid`` where the site does not offer what a user's model names: the site pays for it."""
    offered = ModelEntry.objects.filter(provider=entry.provider, model=entry.model)
    if entry.provider in accounts and offered.exists():
        return
    msg = (
        f"The site offers no model {entry.model!r} of {entry.provider!r}. Your own models may name a local"
        " backend, or what one of the site's models names: ask an owner to add it."
    )
    raise Invalid(msg, code="model_not_offered", param="model")
