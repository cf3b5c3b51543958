"""What the database says in the form of the files: ``etc/models.json``, ``etc/deployment.json``."""

from typing import Any

from accounts.masking import MASK
from router import deployment_file
from router.account_settings import settings_split
from router.models import EntryFields, ModelEntry, ProviderAccount, Role, RoleLink
from router.registry_reads import account_of, deployment
from router.resolution import ContextPolicy, WhenOff


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


def deployment_export() -> dict[str, Any]:
    """Return where models run, in the form of ``etc/deployment.json``.

    A setting that was read from the environment is the reference again; other secrets are masked.
    """
    choice = deployment()
    return deployment_file.in_form(
        mode=choice.mode,
        server_account=choice.server_account,
        accounts={
            row.name: (row.kind, _account_export(row)) for row in ProviderAccount.objects.all()
        },
    )


def _account_export(row: ProviderAccount) -> dict[str, Any]:
    account = account_of(row)
    settings = {**row.settings, **row.references}
    if account.settings is not None:
        secret = settings_split(account.settings)[1]
        settings |= {name: MASK for name in secret if name not in row.references}
    return settings


def secrets_stored() -> dict[tuple[str, str], str]:
    """Return every account's secrets, by account and setting: to be compared, never to be shown."""
    found = {}
    for row in ProviderAccount.objects.all():
        settings = account_of(row).settings
        for name, value in settings_split(settings)[1].items() if settings else ():
            found[row.name, name] = value
    return found
