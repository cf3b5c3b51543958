"""Reads: the registry, what the engines serve, and who answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

from backends import selectors as backends
from backends.engines.base import Target
from backends.errors import BackendNotRunning
from backends.models import Backend
from router.errors import NoRoute, UnknownRoute
from router.registry_reads import (
    Account,
    deployment,
    provider_account,
    provider_accounts,
    registry,
    registry_part,
)
from router.resolution import (
    Engines,
    Route,
    Serving,
    names,
    resolve,
)

__all__ = [
    "Account",
    "ModelCard",
    "Resolved",
    "deployment",
    "model_cards",
    "provider_account",
    "provider_accounts",
    "registry",
    "resolved",
]


class ModelCard(TypedDict):
    """A model as OpenAI's API lists it."""

    id: str
    object: str
    created: int
    owned_by: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who answers, and where."""

    route: Route
    engine: str
    target: Target
    #: What serves there; a lease is taken for this.
    token: str = ""


_Targets = Mapping[str, backends.ServingTarget]


def _targets() -> _Targets:
    return {target.backend: target for target in backends.serving_targets()}


def resolved(*, role: str | None = None, model: str | None = None) -> Resolved:
    """Return who answers ``role`` or ``model`` now, and where.

    Raises:
        UnknownRoute: nothing has this name.
        NoRoute: nothing behind it can answer now.
    """
    targets = _targets()
    try:
        # Every chat passes here: first with only what this name needs.
        part = registry_part(role=role, model=model)
        route = resolve(registry=part, engines=_engines(targets), role=role, model=model)
    except (UnknownRoute, NoRoute):
        targets, route = _resolved_whole(role, model, targets)
    found = targets[route.backend]
    return Resolved(route, found.engine, found.target, found.token)


def _resolved_whole(
    role: str | None, model: str | None, targets: _Targets
) -> tuple[_Targets, Route]:
    """Return who answers, with all that can be said where nobody does.

    What serves and what is under way are two reads: a switch that ends between them has left the one
    and not yet come to the other, and nothing would seem to run. So a refusal counts when what serves
    is the same after it as before.
    """
    whole = registry()
    while True:
        engines = _engines_explained(targets)
        try:
            return targets, resolve(registry=whole, engines=engines, role=role, model=model)
        except (UnknownRoute, NoRoute) as exc:
            if getattr(exc, "wait", None) is not None:
                raise
            before, targets = targets, _targets()
            if targets == before:
                raise


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


def model_cards() -> list[ModelCard]:
    """Return every name a request may ask for: served models, registry ids, roles."""
    targets = _targets()
    owners = {
        model: found.backend
        for found in targets.values()
        for model in (found.target.served_model, *found.also)
    }
    return [
        ModelCard(id=name, object="model", created=0, owned_by=owners.get(name, "mh"))
        for name in names(registry(), _engines(targets))
    ]
