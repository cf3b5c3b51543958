"""Reads of the registry as a user sees it, and of the accounts at providers.

A user's own models and roles win over the site's of the same name, for their requests only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from django.db.models import Exists, IntegerField, OuterRef, QuerySet, Subquery, Value

from accounts.errors import MhError
from accounts.models import User
from backends import secrets
from backends.errors import InvalidOptions
from backends.models import Switchboard
from router.account_settings import settings_parsed
from router.models import (
    Deployment,
    ModelEntry,
    ProviderAccount,
    Role,
    RoleLink,
    UserModelEntry,
    UserRole,
)
from router.providers.base import ProviderSettings
from router.providers.registry import provider
from router.resolution import ROLE_PREFIX, ContextPolicy, Entry, Registry, WhenOff
from router.schemas import SHIPPED_ROLES, ChatOptions, unpinned

#: Where what names a local provider is answered elsewhere.
SERVER_MODE: Final = "server"
#: What is read of an entry, beside its id.
_FIELDS: Final = ("provider", "model", "options", "when_off", "capabilities", "description")


@dataclass(slots=True)
class _Roles:
    """Roles while they are put together."""

    chains: dict[str, Sequence[str]] = field(default_factory=dict)
    options: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    context: dict[str, ContextPolicy] = field(default_factory=dict)

    def put(self, name: str, chain: Sequence[str], options: Any, context: str) -> None:
        self.chains[name] = chain
        self.options.pop(name, None)
        self.context.pop(name, None)
        if given := _options(options):
            self.options[name] = given
        if context != "error":
            self.context[name] = ContextPolicy(context)

    def registry(self, entries: Mapping[str, Entry]) -> Registry:
        return Registry(entries, self.chains, self.options, self.context)


def _options(stored: Any) -> dict[str, Any]:
    return ChatOptions.model_validate(stored).given() if stored else {}


def _entry(entry_id: str, values: Sequence[Any]) -> Entry:
    """Return the entry of a row's ``_FIELDS``."""
    provider_name, model, options, when_off, capabilities, description = values
    return Entry(
        id=entry_id,
        provider=provider_name,
        model=model,
        options=_options(options),
        when_off=WhenOff(when_off),
        capabilities=frozenset(capabilities),
        description=description,
    )


def _own_entry(entry_id: str, values: Sequence[Any]) -> Entry:
    """Return the same of a user's own row, without the options that are the site's to set."""
    entry = _entry(entry_id, values)
    return replace(entry, options=unpinned(entry.options))


def _site_entries(ids: Iterable[str] | None = None) -> dict[str, Entry]:
    rows = ModelEntry.objects.all() if ids is None else ModelEntry.objects.filter(pk__in=ids)
    return {row[0]: _entry(row[0], row[1:]) for row in rows.values_list("id", *_FIELDS)}


def own_rows(user: User) -> QuerySet[UserModelEntry]:
    """Return the models of ``user``'s own that count.

    One that names an account counts while one of the site's models names the same: the site pays for it.
    """
    offered = ModelEntry.objects.filter(provider=OuterRef("provider"), model=OuterRef("model"))
    of_account = ProviderAccount.objects.filter(pk=OuterRef("provider"))
    return UserModelEntry.objects.filter(~Exists(of_account) | Exists(offered), user=user)


def _own_entries(user: User, ids: Iterable[str] | None = None) -> dict[str, Entry]:
    rows = own_rows(user)
    if ids is not None:
        rows = rows.filter(entry_id__in=ids)
    return {row[0]: _own_entry(row[0], row[1:]) for row in rows.values_list("entry_id", *_FIELDS)}


def registry(user: User | None = None) -> Registry:
    """Return the whole registry, as ``user`` sees it; without one the site's.

    Shipped roles nobody has configured have an empty chain.
    """
    entries = _site_entries()
    roles = _site_roles()
    if user is not None:
        entries |= _own_entries(user)
        for own in UserRole.objects.filter(user=user):
            _put_own(roles, own, entries)
    return roles.registry(entries)


def site_role_names() -> set[str]:
    """Return the roles for which the site has set something."""
    return set(Role.objects.values_list("name", flat=True))


def _site_roles() -> _Roles:
    chains: dict[str, list[str]] = {}
    for role, entry in RoleLink.objects.values_list("role_id", "entry_id"):
        chains.setdefault(role, []).append(entry)
    roles = _Roles(chains={name: [] for name in SHIPPED_ROLES})
    for name, options, context in Role.objects.values_list("name", "options", "context"):
        roles.put(name, chains.get(name, []), options, context)
    return roles


def _put_own(roles: _Roles, own: UserRole, entries: Mapping[str, Entry]) -> None:
    """Let a user's role win; not where every model of its chain is gone."""
    chain = [entry for entry in own.chain if entry in entries]
    if chain or not own.chain:
        roles.put(own.name, chain, unpinned(own.options), own.context)


def registry_part(
    *, role: str | None = None, model: str | None = None, user: User | None = None
) -> Registry:
    """Return what of the registry stands behind a name; every chat passes here.

    One query, or none where nothing is named; a few more for a user who has something of their own.
    """
    if model is not None and model.startswith(ROLE_PREFIX):
        role, model = model.removeprefix(ROLE_PREFIX), None
    if role is not None:
        return _part_of_role(role, user)
    if model is not None:
        return Registry(_part_of_model(model, user))
    return Registry()


def _part_of_model(model: str, user: User | None) -> dict[str, Entry]:
    rows = _ranked(ModelEntry.objects.filter(pk=model), "id", 0)
    if user is not None:
        own = own_rows(user).filter(entry_id=model)
        rows = rows.union(_ranked(own, "entry_id", 1), all=True)
    # The user's own comes last, and stays.
    return {
        row[1]: (_own_entry if row[0] else _entry)(row[1], row[2:])
        for row in sorted(rows, key=lambda row: row[0])
    }


def _ranked(rows: Any, id_field: str, rank: int) -> Any:
    ranked = rows.order_by().annotate(rank=Value(rank, output_field=IntegerField()))
    return ranked.values_list("rank", id_field, *_FIELDS)


def _part_of_role(role: str, user: User | None) -> Registry:
    if user is None:
        own_things: Any = Value(0, output_field=IntegerField())
    else:
        own_roles = UserRole.objects.filter(user=user, name=role)
        own_things = Exists(own_roles) | Exists(UserModelEntry.objects.filter(user=user))
    rows = list(
        Role.objects.filter(pk=role)
        .annotate(own=own_things)
        .order_by("links__position")
        .values_list(
            "own",
            "options",
            "context",
            "links__entry_id",
            *(f"links__entry__{name}" for name in _FIELDS),
        )
    )
    entries = {row[3]: _entry(row[3], row[4:]) for row in rows if row[3] is not None}
    roles = _Roles()
    if rows:
        roles.put(role, list(entries), rows[0][1], rows[0][2])
    elif role in SHIPPED_ROLES:
        roles.put(role, [], {}, "error")
    if user is not None and (not rows or rows[0][0]):
        return _with_own(user, role, roles, entries)
    return roles.registry(entries)


def _with_own(user: User, role: str, roles: _Roles, entries: dict[str, Entry]) -> Registry:
    own = UserRole.objects.filter(user=user, name=role).first()
    if own is not None:
        entries |= _site_entries(own.chain)
    wanted = {*entries, *(own.chain if own else ())}
    if wanted:
        entries |= _own_entries(user, wanted)
    if own is not None:
        _put_own(roles, own, entries)
    return roles.registry(entries)


# -- accounts at providers


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account at a provider, with its secrets; never shown as it is."""

    name: str
    #: Name of the provider plug-in.
    kind: str
    #: An instance of the plug-in's ``Settings``; None where what is stored cannot be read.
    settings: ProviderSettings | None
    #: Whether requests can be sent with it, as far as can be told without sending one.
    ready: bool
    #: Why they cannot: a sentence that says what to do.
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentChoice:
    """Where models run."""

    #: ``local``, or ``server``: local providers are answered for by ``server_account``.
    mode: str
    #: Name of a provider account; empty where none was chosen.
    server_account: str


def deployment() -> DeploymentChoice:
    """Return where models run: one query."""
    account = Subquery(Deployment.objects.values("server_account")[:1])
    found = Switchboard.objects.values_list("deployment_mode", account).first()
    mode, name = found or ("local", None)
    return DeploymentChoice(mode=mode, server_account=name or "")


def provider_accounts() -> list[Account]:
    """Return every account, by name. One that cannot be used says why."""
    return [account_of(row) for row in ProviderAccount.objects.all()]


def provider_account(name: str) -> Account | None:
    """Return the account called ``name``, or None: one query."""
    row = ProviderAccount.objects.filter(pk=name).first()
    return account_of(row) if row else None


def account_of(row: ProviderAccount) -> Account:
    """Return what a row says, its secrets unsealed. Whatever is wrong with it becomes ``why_not``."""
    try:
        settings = settings_parsed(row.kind, {**row.settings, **secrets.unseal(row.secrets)})
    except InvalidOptions:
        why = (
            f"The secrets of the provider account {row.name} were encrypted with another MH_SECRET_KEY."
            f" Restore that key, or enter them again: PATCH /api/providers/{row.name}."
        )
        return Account(name=row.name, kind=row.kind, settings=None, ready=False, why_not=why)
    except MhError as exc:
        return _not_ready(row, None, exc)
    try:
        provider(row.kind).target(settings)
    except MhError as exc:
        return _not_ready(row, settings, exc)
    return Account(name=row.name, kind=row.kind, settings=settings, ready=True)


def _not_ready(row: ProviderAccount, settings: ProviderSettings | None, exc: MhError) -> Account:
    why = f"The provider account {row.name} is not complete: {exc.message}"
    return Account(name=row.name, kind=row.kind, settings=settings, ready=False, why_not=why)
