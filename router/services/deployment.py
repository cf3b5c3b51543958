"""``etc/deployment.json``: taken over."""

import os
from collections.abc import Mapping

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.permissions import Permission
from audit.access import require
from audit.models import Category
from audit.services import event_record
from backends import secrets
from backends.errors import InvalidOptions
from backends.services import deployment_mode_set
from router.account_settings import settings_parsed, settings_split
from router.deployment_file import Parsed, Section, parsed
from router.errors import InvalidProvider
from router.models import Deployment, ProviderAccount
from router.registry_files import deployment_export
from router.services.accounts import name_check


def deployment_import(
    *, actor: Actor, data: object, environment: Mapping[str, str] | None = None
) -> Parsed:
    """Take over the mode, and the accounts the file speaks of; others stay. All of it, or nothing.

    Credentials are not tried: a file is also read where there is no network.

    Args:
        actor: who asks; needs ``registry:manage``.
        data: what the file holds, parsed as JSON.
        environment: where ``${NAME}`` is looked up; that of this process by default.

    Raises:
        InvalidRequest, Invalid: it is not what the schema says, or a variable is not set; names the key.
        NotAuthenticated, NotAllowed.
    """
    require(actor, Permission.REGISTRY_MANAGE, target_type="deployment")
    file = parsed(data, os.environ if environment is None else environment)
    with transaction.atomic():
        before = deployment_export()
        for section in file.sections:
            _account_write(section)
        _server_check(file)
        Deployment.objects.update_or_create(pk=1, defaults={"server_account": file.server_account})
        deployment_mode_set(file.mode)
        event_record(
            actor=actor,
            event="deployment.imported",
            category=Category.CONFIGURATION,
            target_type="deployment",
            before=before,
            after=deployment_export(),
        )
    return file


def _server_check(file: Parsed) -> None:
    if file.mode != "server":
        return
    if not ProviderAccount.objects.filter(pk=file.server_account).exists():
        raise Invalid(
            f"server.provider names {file.server_account!r}, and there is no such account. Put it under"
            f" server.{file.server_account} or providers.{file.server_account}.",
            param="server.provider",
        )


def _account_write(section: Section) -> None:
    try:
        name_check(section.name)
        row = ProviderAccount.objects.select_for_update().filter(pk=section.name).first()
        row = row or ProviderAccount(name=section.name)
        values = {**section.settings, **_kept(row, section)}
        settings = settings_parsed(section.kind, values)
    except InvalidProvider as exc:
        message = f"{section.where}: {exc.message}"
        raise InvalidProvider(message, code=exc.code, param=section.where) from exc
    shown, hidden = settings_split(settings)
    same = row.kind == section.kind and row.settings == shown and _unsealed(row) == hidden
    if not same:
        row.secrets = secrets.seal(hidden)
        row.checked_at, row.check_good, row.check_message = None, None, ""
    row.kind, row.settings, row.references = section.kind, shown, dict(section.references)
    row.save()


def _unsealed(row: ProviderAccount) -> dict[str, str] | None:
    try:
        return secrets.unseal(row.secrets)
    except InvalidOptions:
        return None


def _kept(row: ProviderAccount, section: Section) -> dict[str, str]:
    """Return the stored secrets that the file has masked."""
    stored = secrets.unseal(row.secrets) if section.kept else {}
    missing = sorted(section.kept - stored.keys())
    if missing:
        msg = f"{missing[0]} is masked in the file, and none is stored. Write it, or ${{NAME}} for a variable."
        raise InvalidProvider(msg)
    return {name: stored[name] for name in section.kept}
