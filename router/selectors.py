"""Reads: the registry, what the engines serve, and who answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from accounts.models import User
from backends import selectors as backends
from backends.engines.base import Target
from backends.errors import BackendNotRunning
from backends.models import Backend
from router.availability import refusal_explained
from router.errors import NoRoute, UnknownRoute
from router.providers.base import Provider
from router.providers.registry import engine_provider, provider
from router.registry_reads import (
    SERVER_MODE,
    Account,
    DeploymentChoice,
    deployment,
    provider_account,
    provider_accounts,
    registry,
    registry_part,
)
from router.resolution import (
    ACTIVE,
    Chain,
    Cloud,
    Clouds,
    Engines,
    Registry,
    Route,
    Serving,
    names,
    resolve_chain,
)

__all__ = [
    "Account",
    "ModelCard",
    "Resolved",
    "ResolvedChain",
    "deployment",
    "model_cards",
    "provider_account",
    "provider_accounts",
    "registry",
    "resolved",
    "resolved_chain",
]


class ModelCard(TypedDict):
    """A model as OpenAI's API lists it."""

    id: str
    object: str
    created: int
    owned_by: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who can answer, and where."""

    route: Route
    provider: Provider
    target: Target
    #: What serves there, for a local backend: a lease is taken for this. Empty for a cloud.
    token: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What failures are counted for."""
        return (self.route.backend or self.route.provider, self.token)


@dataclass(frozen=True, slots=True)
class ResolvedChain:
    """Who can answer now, to be tried in order, and why nobody else can."""

    found: tuple[Resolved, ...]
    #: Always there when nobody is found; else what to say or wait for when none of them has answered.
    refusal: NoRoute | None = None


_Targets = Mapping[str, backends.ServingTarget]


def _targets() -> _Targets:
    return {target.backend: target for target in backends.serving_targets()}


def resolved_chain(
    *,
    role: str | None = None,
    model: str | None = None,
    user: User | None = None,
    explained: bool = False,
) -> ResolvedChain:
    """Return who can answer ``role`` or ``model`` for ``user`` now, and where.

    Args:
        role: what is asked for; or
        model: the same, as ``resolve_chain`` reads it.
        user: who asks; their own models and roles win.
        explained: also find out why others cannot, where somebody can. It costs a few queries.

    Raises:
        UnknownRoute: nothing has this name.
    """
    targets = _targets()
    choice = deployment()
    if not explained:
        # Every chat passes here: with only what this name needs.
        part = registry_part(role=role, model=model, user=user)
        chain = _chain(part, _engines(targets), choice, role, model)
        if chain is not None and chain.is_direct:
            return ResolvedChain(tuple(_resolved(route, targets) for route in chain.routes))
    return _resolved_whole(role, model, user, targets, choice)


def resolved(
    *, role: str | None = None, model: str | None = None, user: User | None = None
) -> Resolved:
    """Return the first of ``resolved_chain``.

    Raises:
        UnknownRoute: nothing has this name.
        NoRoute: nothing behind it can answer now.
    """
    chain = resolved_chain(role=role, model=model, user=user)
    if chain.refusal is not None and not chain.found:
        raise chain.refusal
    return chain.found[0]


def _chain(
    part: Registry, engines: Engines, choice: DeploymentChoice, role: str | None, model: str | None
) -> Chain | None:
    """Return who answers; None where the name is not in ``part``."""
    clouds = _clouds(part, engines, choice)
    try:
        return resolve_chain(registry=part, engines=engines, clouds=clouds, role=role, model=model)
    except UnknownRoute:
        return None


def _resolved_whole(
    role: str | None,
    model: str | None,
    user: User | None,
    targets: _Targets,
    choice: DeploymentChoice,
) -> ResolvedChain:
    """Return who answers, with all that can be said where nobody does.

    What serves and what is under way are two reads: a switch that ends between them has left the one
    and not yet come to the other, and nothing would seem to run. So a refusal counts when what serves
    is the same after it as before.
    """
    whole = registry(user)
    while True:
        engines = _engines_explained(targets)
        clouds = _clouds(whole, engines, choice)
        unknown: UnknownRoute | None = None
        chain = Chain()
        try:
            chain = resolve_chain(
                registry=whole, engines=engines, clouds=clouds, role=role, model=model
            )
        except UnknownRoute as exc:
            unknown = exc
        if chain.routes or (chain.refusal is not None and chain.refusal.wait is not None):
            found = tuple(_resolved(route, targets) for route in chain.routes)
            return ResolvedChain(found, chain.refusal)
        before, targets = targets, _targets()
        if targets == before:
            if unknown is not None:
                raise unknown
            refusal = chain.refusal
            if refusal is not None:
                refusal = refusal_explained(refusal, whole, role=role, model=model)
            return ResolvedChain((), refusal)


def _resolved(route: Route, targets: _Targets) -> Resolved:
    if route.backend:
        found = targets[route.backend]
        return Resolved(route, engine_provider(found.engine), found.target, found.token)
    account = provider_account(route.provider)
    if account is None or account.settings is None:
        why = account.why_not if account else f"The account {route.provider} has just been removed."
        raise NoRoute(why, code="needs_credentials")
    adapter = provider(account.kind)
    return Resolved(route, adapter, adapter.target(account.settings))


def _clouds(part: Registry, engines: Engines, choice: DeploymentChoice) -> Clouds:
    """Return the clouds that ``part`` may need: none are read where everything in it serves here."""
    is_server = choice.mode == SERVER_MODE
    here = {ACTIVE, *engines.backends, *(serving.backend for serving in engines.serving)}
    if not is_server and all(entry.provider in here for entry in part.entries.values()):
        return Clouds()
    accounts = {each.name: Cloud(each.name, each.why_not) for each in provider_accounts()}
    return Clouds(accounts, is_server, choice.server_account)


def _engines(targets: _Targets) -> Engines:
    serving = {
        name: Serving(name, found.target.served_model, found.also)
        for name, found in targets.items()
    }
    active = next((serving[name] for name, found in targets.items() if found.active), None)
    return Engines(serving=tuple(serving.values()), active=active)


def _engines_explained(targets: _Targets) -> Engines:
    """Return the same with what is needed to say why something cannot answer."""
    chosen = backends.active_backend()
    engines = replace(
        _engines(targets), waits=backends.waits(), chosen=chosen.name if chosen else ""
    )
    names = tuple(Backend.objects.values_list("name", flat=True))
    try:
        backends.serving_target(None)
    except BackendNotRunning as exc:
        return replace(
            engines,
            why_not=exc.message,
            why_code=exc.code,
            retry_after=exc.retry_after,
            backends=names,
        )
    return replace(engines, backends=names)


def model_cards(user: User | None = None) -> list[ModelCard]:
    """Return every name a request of ``user`` may ask for: served models, registry ids, roles."""
    targets = _targets()
    owners = {
        model: found.backend
        for found in targets.values()
        for model in (found.target.served_model, *found.also)
    }
    return [
        ModelCard(id=name, object="model", created=0, owned_by=owners.get(name, "mh"))
        for name in names(registry(user), _engines(targets))
    ]
