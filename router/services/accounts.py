"""Writes to accounts at providers. Credentials are tried before they are kept, and never shown again."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import database
from accounts.actors import Actor
from accounts.errors import MhError
from accounts.masking import mask_text
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from backends import secrets
from backends import selectors as backends
from backends.engines.base import Target
from backends.errors import InvalidOptions
from router.account_settings import as_written, secret_names, settings_parsed, settings_split
from router.errors import (
    AlreadyThere,
    CredentialsRefused,
    CredentialsUntried,
    InUse,
    InvalidProvider,
    ProviderRefused,
    UnknownAccount,
)
from router.models import Deployment, ModelEntry, ProviderAccount, UserModelEntry
from router.providers.base import Provider, ProviderSettings
from router.providers.registry import provider
from router.registry_schemas import ACCOUNT_NAME, AccountChange, AccountCreate
from router.resolution import ACTIVE

logger = logging.getLogger(__name__)

#: Seconds a provider may take to say whether credentials are good.
CHECK_SECONDS: Final = 15.0
_CANNOT: Final = "Not tried: this kind of provider has no check."
_SERVER_ERROR: Final = 500


def provider_account_create(*, actor: Actor, data: AccountCreate) -> ProviderAccount:
    """Add an account, its credentials tried first unless ``data`` says not to; or only try them.

    Raises:
        NotAuthenticated, NotAllowed, AlreadyThere, CredentialsUntried.
        InvalidProvider: the settings are not complete, or the provider refuses them.
    """
    _door(actor, data.name)
    name_check(data.name)
    kind = data.kind or data.name
    settings = settings_parsed(kind, data.settings)
    if ProviderAccount.objects.filter(pk=data.name).exists():
        raise _already(data.name)
    row = ProviderAccount(name=data.name, kind=kind)
    _fill(row, settings)
    _try(row, settings, tried=data.check)
    if not data.save:
        return row
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            _record(actor, "provider.created", row, None)
    except IntegrityError as exc:
        raise _already(data.name) from exc
    return row


def _already(name: str) -> AlreadyThere:
    msg = f"There is a provider account {name} already. Change it, or take another name."
    return AlreadyThere(msg, param="name")


def name_check(name: str) -> None:
    """Raise ``InvalidProvider`` where models that name ``name`` would mean something else."""
    taken = {ACTIVE, *backends.engine_names(), *(row.name for row in backends.backend_list())}
    if name in taken:
        msg = f"{name} is what models call a local backend. Give the account another name."
        raise InvalidProvider(msg, param="name")


def provider_account_update(*, actor: Actor, name: str, data: AccountChange) -> ProviderAccount:
    """Change settings of an account, the whole tried first unless ``data`` says not to; or only try it.

    Raises:
        NotAuthenticated, NotAllowed, UnknownAccount, CredentialsUntried.
        InvalidProvider: the settings are not complete, or the provider refuses them.
    """
    _door(actor, name)
    row = account_get(name)
    changes = as_written(row.kind, data.settings)
    stored = {**row.settings, **_secrets_kept(row, changes)}
    _address_check(row, changes)
    merged = {key: value for key, value in {**stored, **changes}.items() if value is not None}
    settings = settings_parsed(row.kind, merged)
    changed = ProviderAccount(name=row.name, kind=row.kind)
    _fill(changed, settings)
    _try(changed, settings, tried=data.check)
    if not data.save:
        return changed
    with transaction.atomic():
        row = _locked(name)
        before = account_said(row)
        row.settings, row.secrets = changed.settings, changed.secrets
        row.references = {key: value for key, value in row.references.items() if key not in changes}
        row.checked_at, row.check_good = changed.checked_at, changed.check_good
        row.check_message = changed.check_message
        row.save()
        _record(actor, "provider.changed", row, before)
    return row


def _secrets_kept(row: ProviderAccount, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return the stored secrets; none where they cannot be read and all are given anew."""
    try:
        return secrets.unseal(row.secrets)
    except InvalidOptions:
        if any(changes.get(name) for name in _secret_names(row.kind)):
            return {}
        raise


def _address_check(row: ProviderAccount, changes: Mapping[str, Any]) -> None:
    """Raise ``InvalidProvider`` where a stored secret would be sent to a new address.

    Whoever may write secrets may not read them; without this they could have them sent to themselves.
    """
    moved = [
        name
        for name, value in changes.items()
        if value != row.settings.get(name)
        and ("url" in name.lower() or str(value).startswith(("http:", "https:")))
    ]
    if moved and row.secrets and not any(changes.get(name) for name in _secret_names(row.kind)):
        secret = " and ".join(sorted(_secret_names(row.kind)))
        msg = f"{moved[0]} is another address: give {secret} again with it, so that the stored one is not sent there."
        raise InvalidProvider(msg, code="secret_needed", param=f"settings.{moved[0]}")


def _secret_names(kind: str) -> frozenset[str]:
    known = provider(kind).Settings
    return secret_names(known) if known else frozenset()


def provider_account_delete(*, actor: Actor, name: str) -> None:
    """Delete an account that no model names.

    Raises:
        NotAuthenticated, NotAllowed, UnknownAccount.
        InUse: models name it, or it is what answers in server mode.
    """
    _door(actor, name)
    account_get(name)
    with transaction.atomic():
        row = _locked(name)
        used = list(ModelEntry.objects.filter(provider=name).values_list("id", flat=True)[:10])
        used += [
            f"{entry} of {user}"
            for entry, user in UserModelEntry.objects.filter(provider=name).values_list(
                "entry_id", "user__username"
            )[:10]
        ]
        if used:
            raise InUse(
                f"The account {name} is named by the models {', '.join(used)}. Change or delete these first.",
                code="provider_in_use",
            )
        if Deployment.objects.filter(server_account=name).exists():
            raise InUse(
                f"The account {name} answers for local providers in server mode. Choose another one first:"
                " deployment.json.",
                code="provider_in_use",
            )
        before = account_said(row)
        row.delete()
        _record(actor, "provider.deleted", ProviderAccount(name=name, kind=row.kind), before)


def provider_account_check(*, actor: Actor, name: str) -> ProviderAccount:
    """Try the stored credentials and keep what was found: see ``check_good`` and ``check_message``.

    Raises:
        NotAuthenticated, NotAllowed, UnknownAccount.
    """
    _door(actor, name)
    row = account_get(name)
    before = account_said(row)
    try:
        settings = settings_parsed(row.kind, {**row.settings, **secrets.unseal(row.secrets)})
        message = asked(provider(row.kind), settings)
        good = True if message else None
    except MhError as exc:
        message, good = exc.message, False
    found = {
        "checked_at": timezone.now(),
        "check_good": good,
        "check_message": mask_text(message or _CANNOT)[:512],
    }
    with transaction.atomic():
        row = _locked(name)
        for key, value in found.items():
            setattr(row, key, value)
        row.save(update_fields=list(found))
        _record(actor, "provider.checked", row, before)
    return row


# -- rows


def account_get(name: str) -> ProviderAccount:
    """Return the row of an account.

    Raises:
        UnknownAccount: there is none of this name.
    """
    row = ProviderAccount.objects.filter(pk=name).first() if ACCOUNT_NAME.fullmatch(name) else None
    if row is None:
        raise _unknown(name)
    return row


def _locked(name: str) -> ProviderAccount:
    row = ProviderAccount.objects.select_for_update().filter(pk=name).first()
    if row is None:
        raise _unknown(name)
    return row


def _unknown(name: str) -> UnknownAccount:
    there = ", ".join(ProviderAccount.objects.values_list("name", flat=True)) or "none"
    return UnknownAccount(f"There is no provider account {name[:64]!r}. There are: {there}.")


def _fill(row: ProviderAccount, settings: ProviderSettings) -> None:
    row.settings, hidden = settings_split(settings)
    row.secrets = secrets.seal(hidden)


def _door(actor: Actor, name: str) -> None:
    require(actor, Permission.REGISTRY_MANAGE, target_type="provider", target_id=name[:80])


def account_said(row: ProviderAccount) -> dict[str, Any]:
    """Return what an audit event may say of an account."""
    return {
        "kind": row.kind,
        "settings": dict(row.settings),
        "credentials": bool(row.secrets),
        "check": row.check_message,
    }


def _record(actor: Actor, event: str, row: ProviderAccount, before: dict[str, Any] | None) -> None:
    event_record(
        actor=actor,
        event=event,
        category=Category.CONFIGURATION,
        target_type="provider",
        target_id=row.name,
        before=before,
        after=None if event == "provider.deleted" else account_said(row),
    )


# -- trying credentials


def _try(row: ProviderAccount, settings: ProviderSettings, *, tried: bool) -> None:
    """Put into ``row`` what the provider says of ``settings``.

    Raises:
        InvalidProvider: they are not complete, or refused.
        CredentialsUntried: the provider cannot be asked.
    """
    plugin = provider(row.kind)
    if not tried:
        plugin.target(settings)
        row.check_message = "Not tried: saved without a check."
        return
    try:
        message = asked(plugin, settings)
    except InvalidProvider:
        raise
    except MhError as exc:
        if exc.status < _SERVER_ERROR or isinstance(exc, ProviderRefused):
            msg = f"{plugin.title} does not take these credentials, so they were not saved. {exc.message}"
            raise CredentialsRefused(msg, param="settings") from exc
        msg = (
            f"{plugin.title} could not be asked, so nothing was saved. {exc.message} With"
            ' "check": false it is saved untried.'
        )
        raise CredentialsUntried(msg, param="settings") from exc
    row.check_message = mask_text(message or _CANNOT)[:512]
    row.checked_at, row.check_good = timezone.now(), True if message else None


def asked(plugin: Provider, settings: ProviderSettings) -> str:
    """Return what the provider says of ``settings``: a sentence, empty where its plug-in cannot ask.

    Waits for the network; hold no transaction.

    Raises:
        MhError: they do not work, or the provider cannot be asked.
    """
    target = plugin.target(settings)
    database.release()
    return async_to_sync(_asked)(plugin, target)


async def _asked(plugin: Provider, target: Target) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await plugin.check(target)
    except MhError:
        raise
    except TimeoutError as exc:
        msg = f"{plugin.title} did not answer in {CHECK_SECONDS:.0f} s."
        raise CredentialsUntried(msg) from exc
    except Exception as exc:
        # The boundary: a plug-in's bug is not the site's.
        logger.exception("the provider plug-in %s failed to check", plugin.name)
        msg = f"The plug-in {plugin.name} failed: {type(exc).__name__}. The site's log has the reason."
        raise CredentialsUntried(msg) from exc
