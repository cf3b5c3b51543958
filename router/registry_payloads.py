"""What leaves the registry: models, roles and provider accounts as clients see them."""

from typing import Any, TypedDict

from accounts.models import User
from router import availability
from router.account_settings import secret_names, settings_shown
from router.availability import Availability, AvailabilityPayload, Facts, payload_of
from router.errors import UnknownAccount, UnknownModel, UnknownRole
from router.models import ModelEntry, ProviderAccount, UserRole
from router.providers.registry import providers
from router.registry_reads import account_of, own_rows, registry
from router.registry_schemas import ACCOUNT_NAME
from router.resolution import Entry, Registry
from router.schemas import SHIPPED_ROLES


class ModelPayload(TypedDict):
    """A model of the registry."""

    id: str
    #: Whose it is: ``site``, or ``mine``.
    scope: str
    provider: str
    model: str
    options: dict[str, Any]
    when_off: str
    capabilities: list[str]
    description: str
    #: Names of the roles whose chain it is in.
    roles: list[str]
    availability: AvailabilityPayload


class LinkPayload(TypedDict):
    """One model of a role's chain."""

    id: str
    availability: AvailabilityPayload


class RolePayload(TypedDict):
    """A role."""

    name: str
    scope: str
    #: Ids of models; empty: the active backend answers.
    chain: list[str]
    options: dict[str, Any]
    context: str
    #: Can be asked for although nobody has set it.
    shipped: bool
    links: list[LinkPayload]
    #: Whether one of the chain is available.
    available: bool


class CheckPayload(TypedDict):
    """What was found when the credentials were tried last."""

    good: bool | None
    message: str
    at: str | None


class AccountPayload(TypedDict, total=False):
    """An account at a provider. What follows ``models`` is for owners."""

    name: str
    kind: str
    title: str
    ready: bool
    #: Ids of the site's models that name it.
    models: list[str]
    why_not: str
    settings: dict[str, Any]
    #: Which secrets are set; never what they are.
    secrets: dict[str, bool]
    #: Settings that were read from the environment, as a file has them: ``${HF_TOKEN}``.
    references: dict[str, Any]
    check: CheckPayload
    #: Of one account, not of a list's.
    schema: dict[str, Any]


class KindPayload(TypedDict):
    """A kind of account that can be added."""

    kind: str
    title: str
    schema: dict[str, Any]
    secrets: list[str]


# -- models


def models(user: User | None, scope: str | None = None) -> list[ModelPayload]:
    """Return the models as ``user`` sees them: theirs in place of the site's; by ``scope`` only those."""
    whole, facts = _seen(user, scope), availability.facts_now()
    own = _own_ids(user)
    found = [_model(entry, whole, facts, own, scope) for entry in whole.entries.values()]
    wanted = [row for row in found if scope is None or row["scope"] == scope]
    return sorted(wanted, key=lambda row: row["id"])


def model(entry_id: str, user: User | None, scope: str | None = None) -> ModelPayload:
    """Return one of them.

    Raises:
        UnknownModel: there is none of this id.
    """
    whole = _seen(user, scope)
    own = _own_ids(user)
    entry = whole.entries.get(entry_id)
    if entry is None or (scope == "mine" and entry_id not in own):
        msg = f"There is no model {entry_id[:128]!r} in the registry. GET /api/models lists all of them."
        raise UnknownModel(msg)
    return _model(entry, whole, availability.facts_now(), own, scope)


def _seen(user: User | None, scope: str | None) -> Registry:
    return registry(None if scope == "site" else user)


def _own_ids(user: User | None) -> set[str]:
    if user is None:
        return set()
    return set(own_rows(user).values_list("entry_id", flat=True))


def _model(
    entry: Entry, whole: Registry, facts: Facts, own: set[str], scope: str | None
) -> ModelPayload:
    return ModelPayload(
        id=entry.id,
        scope="mine" if entry.id in own and scope != "site" else "site",
        provider=entry.provider,
        model=entry.model,
        options=dict(entry.options),
        when_off=str(entry.when_off),
        capabilities=sorted(entry.capabilities),
        description=entry.description,
        roles=sorted(name for name, chain in whole.roles.items() if entry.id in chain),
        availability=payload_of(entry, facts),
    )


# -- roles


def roles(user: User | None, scope: str | None = None) -> list[RolePayload]:
    """Return the roles as ``user`` sees them; by ``scope`` only those."""
    whole, facts, own = _seen(user, scope), availability.facts_now(), _own_roles(user)
    found = [_role(name, whole, facts, own, scope) for name in whole.roles]
    return [row for row in found if scope is None or row["scope"] == scope]


def role(name: str, user: User | None, scope: str | None = None) -> RolePayload:
    """Return one of them.

    Raises:
        UnknownRole: there is none of this name.
    """
    whole, own = _seen(user, scope), _own_roles(user)
    if name not in whole.roles or (scope == "mine" and name not in own):
        msg = f"There is no role {name[:64]!r}. Roles here: {', '.join(whole.roles)}."
        raise UnknownRole(msg)
    return _role(name, whole, availability.facts_now(), own, scope)


def _own_roles(user: User | None) -> set[str]:
    if user is None:
        return set()
    return set(UserRole.objects.filter(user=user).values_list("name", flat=True))


def _role(
    name: str, whole: Registry, facts: Facts, own: set[str], scope: str | None
) -> RolePayload:
    chain = list(whole.roles[name])
    links = [
        LinkPayload(id=one, availability=payload_of(whole.entries[one], facts)) for one in chain
    ]
    # Without a chain the active backend answers.
    states = [link["availability"]["state"] for link in links] or [
        payload_of(Entry("active", "active"), facts)["state"]
    ]
    return RolePayload(
        name=name,
        scope="mine" if name in own and scope != "site" else "site",
        chain=chain,
        options=dict(whole.role_options.get(name, {})),
        context=str(whole.role_context.get(name, "error")),
        shipped=name in SHIPPED_ROLES,
        links=links,
        available=Availability.AVAILABLE.value in states,
    )


# -- accounts


def accounts(*, whole: bool) -> list[AccountPayload]:
    """Return the accounts; ``whole`` with settings, which secrets are set, and how the check went."""
    found = [account(row, whole=whole) for row in ProviderAccount.objects.all()]
    for row in found:
        row.pop("schema", None)  # the list of kinds has them
    return found


def account_named(name: str, *, whole: bool) -> AccountPayload:
    """Return one account.

    Raises:
        UnknownAccount: there is none of this name.
    """
    row = ProviderAccount.objects.filter(pk=name).first() if ACCOUNT_NAME.fullmatch(name) else None
    if row is None:
        there = ", ".join(ProviderAccount.objects.values_list("name", flat=True)) or "none"
        msg = f"There is no provider account {name[:64]!r}. There are: {there}."
        raise UnknownAccount(msg)
    return account(row, whole=whole)


def account(row: ProviderAccount, *, whole: bool) -> AccountPayload:
    """Return an account for clients, its secrets only as whether they are set."""
    found = account_of(row)
    plugin = providers().get(row.kind)
    entries = ModelEntry.objects.filter(provider=row.name)
    payload = AccountPayload(
        name=row.name,
        kind=row.kind,
        title=plugin.title if plugin else row.kind,
        ready=found.ready,
        models=list(entries.values_list("id", flat=True)),
    )
    if not whole:
        return payload
    known = plugin.Settings if plugin else None
    payload |= AccountPayload(
        why_not=found.why_not,
        settings=settings_shown(found.settings) if found.settings else dict(row.settings),
        secrets=_secrets(row, found.settings, sorted(secret_names(known)) if known else []),
        references=dict(row.references),
        check=CheckPayload(
            good=row.check_good,
            message=row.check_message,
            at=row.checked_at.isoformat() if row.checked_at else None,
        ),
        schema=known.model_json_schema(by_alias=True) if known else {},
    )
    return payload


def _secrets(row: ProviderAccount, settings: Any, names: list[str]) -> dict[str, bool]:
    if settings is None:
        return dict.fromkeys(names, bool(row.secrets))
    fields = {info.alias or name: name for name, info in type(settings).model_fields.items()}
    return {name: bool(getattr(settings, fields[name]).get_secret_value()) for name in names}


def kinds() -> list[KindPayload]:
    """Return the kinds of accounts that can be added."""
    return [
        KindPayload(
            kind=name,
            title=plugin.title,
            schema=plugin.Settings.model_json_schema(by_alias=True),
            secrets=sorted(secret_names(plugin.Settings)),
        )
        for name, plugin in sorted(providers().items())
        if plugin.Settings is not None
    ]
