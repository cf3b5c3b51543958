"""Reads: the registry, what the engines serve, and who answers."""

from dataclasses import dataclass
from typing import TypedDict

from backends import selectors as backends
from backends.engines.base import Target
from backends.errors import BackendNotRunning
from backends.models import Backend
from router.models import ModelEntry, Role, RoleLink
from router.resolution import Engines, Entry, Registry, Route, Serving, names, resolve
from router.schemas import SHIPPED_ROLES, ChatOptions


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


def registry() -> Registry:
    """Return the whole registry. Shipped roles nobody has configured have an empty chain."""
    entries = {
        row.id: Entry(
            row.id,
            row.provider,
            row.model,
            ChatOptions.model_validate(row.options).given(),
        )
        for row in ModelEntry.objects.all()
    }
    roles: dict[str, list[str]] = {name: [] for name in SHIPPED_ROLES}
    roles |= {name: [] for name in Role.objects.values_list("name", flat=True)}
    for role, entry in RoleLink.objects.values_list("role_id", "entry_id"):
        roles[role].append(entry)
    return Registry(entries=entries, roles=roles)


def resolved(*, role: str | None = None, model: str | None = None) -> Resolved:
    """Return who answers ``role`` or ``model`` now, and where.

    Raises:
        UnknownRoute: nothing has this name.
        NoRoute: nothing behind it can answer now.
    """
    targets, engines = _engines()
    route = resolve(registry=registry(), engines=engines, role=role, model=model)
    found = targets[route.backend]
    return Resolved(route, found.engine, found.target)


def _engines() -> tuple[dict[str, backends.ServingTarget], Engines]:
    targets = {target.backend: target for target in backends.serving_targets()}
    serving = {name: Serving(name, found.target.served_model) for name, found in targets.items()}
    active, why_not = None, ""
    try:
        active = serving.get(backends.serving_target(None).backend)
    except BackendNotRunning as exc:
        why_not = exc.message
    known = tuple(Backend.objects.values_list("name", flat=True))
    return targets, Engines(tuple(serving.values()), active, why_not, known)


def model_cards() -> list[ModelCard]:
    """Return every name a request may ask for: served models, registry ids, roles."""
    targets, engines = _engines()
    owners = {found.target.served_model: found.backend for found in targets.values()}
    return [
        ModelCard(id=name, object="model", created=0, owned_by=owners.get(name, "mh"))
        for name in names(registry(), engines)
    ]
