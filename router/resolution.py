"""Who answers. Pure: what is asked for, the registry and what is serving in; a route out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backends.selectors import Wait
from router.errors import NoRoute, UnknownRoute

ROLE_PREFIX = "role:"
#: The provider that is whichever local backend is active.
ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the registry."""

    id: str
    provider: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    #: What to do where the local backend it names does not serve: next, wait, substitute, error.
    when_off: str = "next"
    #: Of ``router.schemas.CAPABILITIES``; empty where nobody has said.
    capabilities: frozenset[str] = frozenset()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Registry:
    """Models by id, and for each role its chain of ids."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Options by role; they win over the entry's. A role that has none is not in it.
    role_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What to do with conversations that are too long, by role: error, trim. Error where it is not in it.
    role_context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Serving:
    """A local backend that takes requests now, and the model it serves."""

    backend: str
    model: str
    #: Names it serves beside that one: adapters of the model.
    also: tuple[str, ...] = ()

    def serves(self, model: str) -> bool:
        """Say whether it answers to ``model``."""
        return model == self.model or model in self.also


@dataclass(frozen=True, slots=True)
class Engines:
    """What the local engines are doing."""

    #: Every backend that takes requests now.
    serving: Sequence[Serving] = ()
    #: The active one of them, if it is serving.
    active: Serving | None = None
    #: Why the active one is not serving: a sentence for a person.
    why_not: str = ""
    #: The same for programs.
    why_code: str = "backend_not_running"
    #: Seconds after which it may be serving, where that is known.
    retry_after: int | None = None
    #: Names of all local backends, serving or not.
    backends: Sequence[str] = ()
    #: The one that answers who names none.
    chosen: str = ""
    #: Backends that are worth waiting for.
    waits: Sequence[Wait] = ()

    def wait_for(self, backend: str) -> Wait | None:
        """Return what is worth waiting for where ``backend`` is needed."""
        return next((wait for wait in self.waits if wait.backend == backend), None)

    @property
    def wait_for_active(self) -> Wait | None:
        """Return the same where any backend will do: what is under way, else the chosen one."""
        coming = next((wait for wait in self.waits if not wait.on_demand), None)
        return coming or self.wait_for(self.chosen)


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers, with what."""

    provider: str
    backend: str
    #: The name to send to the backend.
    model: str
    #: Defaults of the registry, by the names of OpenAI's API; what the client sets wins.
    options: Mapping[str, Any] = field(default_factory=dict)
    entry: str | None = None
    role: str | None = None


def resolve(
    *,
    registry: Registry,
    engines: Engines,
    role: str | None = None,
    model: str | None = None,
) -> Route:
    """Return who answers ``role`` or ``model``; with neither, the active backend.

    ``model`` is ``role:<role>``, a registry id, or the name of a model that is being served; looked
    for in this order.

    Raises:
        UnknownRoute: nothing has this name; the message says what there is.
        NoRoute: the name is known, and nothing behind it can answer now.
    """
    if model is not None and model.startswith(ROLE_PREFIX):
        role, model = model.removeprefix(ROLE_PREFIX), None
    if role is not None:
        return _by_role(role, registry, engines)
    if model is None:
        return _active(engines)
    if model in registry.entries:
        return _by_entry(registry.entries[model], engines)
    return _by_served_name(model, registry, engines)


def _active(engines: Engines) -> Route:
    if engines.active is None:
        raise _not_running(engines)
    return Route(provider=ACTIVE, backend=engines.active.backend, model=engines.active.model)


def _not_running(engines: Engines) -> NoRoute:
    return NoRoute(
        engines.why_not or "No engine is running.",
        code=engines.why_code,
        retry_after=engines.retry_after,
        wait=engines.wait_for_active,
    )


def _not_needed(engines: Engines) -> NoRoute:
    """Return why something cannot answer while something else is under way that will not change that."""
    return NoRoute(engines.why_not, code=engines.why_code, retry_after=engines.retry_after)


def _by_role(role: str, registry: Registry, engines: Engines) -> Route:
    if role not in registry.roles:
        known = ", ".join(registry.roles) or "none"
        raise UnknownRoute(
            f"There is no role {role[:80]!r}. Roles here: {known}.",
            code="role_not_found",
            param="role",
        )
    chain = registry.roles[role]
    if not chain:
        found = _active(engines)
        return Route(provider=found.provider, backend=found.backend, model=found.model, role=role)
    reasons: list[NoRoute] = []
    for entry_id in chain:
        try:
            return _by_entry(registry.entries[entry_id], engines, role=role)
        except NoRoute as exc:
            reasons.append(exc)
    # The same reason of several links is said once.
    sentences = " ".join(dict.fromkeys(reason.message for reason in reasons))
    raise NoRoute(
        f"Nothing can answer the role {role!r} now. {sentences}",
        code=reasons[0].code if len({reason.code for reason in reasons}) == 1 else None,
        retry_after=engines.retry_after,
        wait=next((reason.wait for reason in reasons if reason.wait), None),
    )


def _by_entry(entry: Entry, engines: Engines, *, role: str | None = None) -> Route:
    serving = _serving_for(entry, engines)
    if entry.model and not serving.serves(entry.model):
        raise NoRoute(
            f"{entry.id} needs the model {entry.model!r}, and {serving.backend} serves"
            f" {serving.model!r}.",
            code="model_not_served",
            wait=_wait_for_model(entry, serving, engines),
        )
    return Route(
        provider=entry.provider,
        backend=serving.backend,
        model=entry.model or serving.model,
        options=entry.options,
        entry=entry.id,
        role=role,
    )


def _wait_for_model(entry: Entry, serving: Serving, engines: Engines) -> Wait | None:
    """Return the wait for a backend to serve another model than it does; not of whichever is active."""
    wait = engines.wait_for(serving.backend) if entry.provider != ACTIVE else None
    if wait is None or (not wait.on_demand and wait.model != entry.model):
        return None
    return replace(wait, wanted=entry.model)


def _serving_for(entry: Entry, engines: Engines) -> Serving:
    if entry.provider == ACTIVE:
        if engines.active is None:
            raise _not_running(engines)
        return engines.active
    for serving in engines.serving:
        if serving.backend == entry.provider:
            return serving
    if entry.provider in engines.backends:
        wait = engines.wait_for(entry.provider)
        if wait is None and engines.why_code != "backend_not_running":
            raise _not_needed(engines)
        if wait is not None and wait.on_demand:
            wait = replace(wait, wanted=entry.model)
        raise NoRoute(
            f"{entry.id} needs {entry.provider}, which is not running.",
            code="backend_not_running",
            wait=wait,
        )
    raise NoRoute(f"{entry.id} needs the provider {entry.provider}, which is not set up here.")


def _by_served_name(model: str, registry: Registry, engines: Engines) -> Route:
    for serving in engines.serving:
        if serving.serves(model):
            return Route(provider=serving.backend, backend=serving.backend, model=model)
    coming = next((wait for wait in engines.waits if wait.model == model), None)
    if coming is not None or not engines.serving:
        raise NoRoute(
            f"No engine is running that could serve the model {model[:120]!r}. {engines.why_not}".strip(),
            code=engines.why_code,
            param="model",
            retry_after=engines.retry_after,
            wait=coming,
        )
    raise UnknownRoute(
        f"There is no model {model[:120]!r}. There is: {', '.join(names(registry, engines))}.",
        param="model",
    )


def names(registry: Registry, engines: Engines) -> list[str]:
    """Return every name ``model`` may have: served models, registry ids, roles."""
    served = dict.fromkeys(
        model for serving in engines.serving for model in (serving.model, *serving.also) if model
    )
    return [*served, *registry.entries, *(f"{ROLE_PREFIX}{role}" for role in registry.roles)]
