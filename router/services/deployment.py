"""Where models run: on this machine, or on a server; and ``etc/deployment.json``, taken over."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

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
from router.registry_reads import SERVER_MODE, DeploymentChoice, deployment
from router.services.accounts import name_check

LOCAL_MODE: Final = "local"
MODES: Final = (LOCAL_MODE, SERVER_MODE)


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


def deployment_set(
    *, actor: Actor, mode: str | None = None, server_account: str | None = None
) -> None:
    """Say where models of local providers run.

    Args:
        actor: who asks; needs ``registry:manage``.
        mode: ``local`` or ``server``; None leaves it.
        server_account: name of the account that answers in server mode; None leaves it.

    Raises:
        Invalid: an unknown mode, or server mode without an account that is there.
        NotAuthenticated, NotAllowed.
    """
    require(actor, Permission.REGISTRY_MANAGE, target_type="deployment")
    if mode not in {None, *MODES}:
        raise Invalid(
            f"There is no mode {mode!r:.80}. It may be: {', '.join(MODES)}.", param="mode"
        )
    with transaction.atomic():
        before = deployment()
        wanted = DeploymentChoice(
            mode=before.mode if mode is None else mode,
            server_account=before.server_account if server_account is None else server_account,
        )
        _account_check(wanted)
        if wanted == before:
            return
        Deployment.objects.update_or_create(
            pk=1, defaults={"server_account": wanted.server_account}
        )
        deployment_mode_set(wanted.mode)
        event_record(
            actor=actor,
            event="deployment.changed",
            category=Category.CONFIGURATION,
            target_type="deployment",
            before=asdict(before),
            after=asdict(wanted),
        )


def _account_check(wanted: DeploymentChoice) -> None:
    name = wanted.server_account
    if name and not ProviderAccount.objects.filter(pk=name).exists():
        msg = f"There is no provider account {name[:80]!r}. Add it first: POST /api/providers"
        raise Invalid(msg, code="unknown_provider", param="server_account")
    if wanted.mode == SERVER_MODE and not name:
        msg = "Server mode needs an account that answers: name one as server_account."
        raise Invalid(msg, code="account_needed", param="server_account")


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
