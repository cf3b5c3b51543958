"""Who answers. Pure: what is asked for, the registry, what serves and which clouds are set up in; a chain of
routes out, to be tried in order."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from backends.selectors import Wait
from router.errors import NoRoute, UnknownRoute

ROLE_PREFIX = "role:"
#: The provider that is whichever local backend is active.
ACTIVE = "active"


class WhenOff(StrEnum):
    """What becomes of a request whose model's local backend is off: its entry's choice."""

    #: Go on in the chain; wait only where nothing else can answer, and waiting helps.
    NEXT = "next"
    #: Wait, where that helps (it is starting, or may be started on demand), before anything later in the chain.
    WAIT = "wait"
    #: Have the active backend answer with what it serves.
    SUBSTITUTE = "substitute"
    #: Refuse, whatever comes later in the chain.
    ERROR = "error"


class ContextPolicy(StrEnum):
    """What becomes of a conversation that is longer than the model's context."""

    ERROR = "error"
    #: Leave out the oldest messages.
    TRIM = "trim"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the registry."""

    id: str
    provider: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    when_off: WhenOff = WhenOff.NEXT
    #: Of ``router.schemas.CAPABILITIES``; empty where nobody has said.
    capabilities: frozenset[str] = frozenset()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Registry:
    """Models by id, and for each role its chain of ids, its options and its context policy."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Options by role; they win over the entry's. A role that has none is not in it.
    role_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What becomes of conversations that are too long, by role. Error where it is not in it.
    role_context: Mapping[str, ContextPolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cloud:
    """An account with a provider elsewhere."""

    name: str
    #: Why it cannot be used, a sentence; empty when it can.
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Clouds:
    """What can be asked elsewhere."""

    accounts: Mapping[str, Cloud] = field(default_factory=dict)
    #: Whether the site runs in server mode: what names a local provider is answered by ``server``.
    is_server: bool = False
    #: The account that answers then; empty where nobody has said.
    server: str = ""


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
    #: The local backend; empty for a cloud.
    backend: str
    #: The name to send to it.
    model: str
    #: Defaults of entry and role, by the names of OpenAI's API; what the client sets wins.
    options: Mapping[str, Any] = field(default_factory=dict)
    entry: str | None = None
    role: str | None = None
    context: ContextPolicy = ContextPolicy.ERROR
    #: What the registry says the model can.
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chain:
    """Who can answer now, to be tried in order, and why nobody else can."""

    routes: tuple[Route, ...] = ()
    #: What to say, or to wait for, when none of ``routes`` has answered. Always there when there are none.
    refusal: NoRoute | None = None
    #: Whether the first link of the chain answers: nothing that is off comes before.
    is_direct: bool = False


@dataclass(frozen=True, slots=True)
class _Facts:
    registry: Registry
    engines: Engines
    clouds: Clouds


def resolve(
    *,
    registry: Registry,
    engines: Engines,
    clouds: Clouds | None = None,
    role: str | None = None,
    model: str | None = None,
) -> Route:
    """Return the first of ``resolve_chain``.

    Raises:
        UnknownRoute: nothing has this name; the message says what there is.
        NoRoute: the name is known, and nothing behind it can answer now.
    """
    found = resolve_chain(registry=registry, engines=engines, clouds=clouds, role=role, model=model)
    if found.routes:
        return found.routes[0]
    assert found.refusal is not None  # noqa: S101 — for the type checker
    raise found.refusal


def resolve_chain(
    *,
    registry: Registry,
    engines: Engines,
    clouds: Clouds | None = None,
    role: str | None = None,
    model: str | None = None,
) -> Chain:
    """Return who answers ``role`` or ``model``; with neither, the active backend (in server mode: the server).

    ``model`` is ``role:<role>``, a registry id, or the name of a model that is being served; looked
    for in this order. A cloud model is never overridden by a local engine, and needs none.

    Raises:
        UnknownRoute: nothing has this name; the message says what there is.
    """
    facts = _Facts(registry, engines, clouds or Clouds())
    if model is not None and model.startswith(ROLE_PREFIX):
        role, model = model.removeprefix(ROLE_PREFIX), None
    if role is not None:
        return _by_role(role, facts)
    if model is None:
        return _chain([_active(facts)])
    if model in registry.entries:
        return _chain(_by_entry(registry.entries[model], facts))
    return _chain([_by_served_name(model, facts)])


#: One link of a chain: who answers, or why it cannot.
_Link = Route | NoRoute


def _chain(links: Sequence[_Link]) -> Chain:
    routes = tuple(link for link in links if isinstance(link, Route))
    refusals = [link for link in links if isinstance(link, NoRoute)]
    return Chain(routes, refusals[0] if refusals else None, _is_direct(links))


def _is_direct(links: Sequence[_Link]) -> bool:
    return bool(links) and isinstance(links[0], Route)


def _active(facts: _Facts) -> _Link:
    engines = facts.engines
    if facts.clouds.is_server:
        return _in_cloud(facts.clouds.server, Entry("The active model", ACTIVE), facts)
    if engines.active is None:
        return _not_running(engines)
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


def _by_role(role: str, facts: _Facts) -> Chain:
    registry = facts.registry
    if role not in registry.roles:
        known = ", ".join(registry.roles) or "none"
        raise UnknownRoute(
            f"There is no role {role[:80]!r}. Roles here: {known}.",
            code="role_not_found",
            param="role",
        )
    ids = registry.roles[role]
    links = list(_links(ids, facts)) if ids else [_active(facts)]
    routes = tuple(_for_role(link, role, registry) for link in links if isinstance(link, Route))
    reasons = [link for link in links if isinstance(link, NoRoute)]
    if not ids or not reasons:
        return Chain(routes, reasons[0] if reasons else None, _is_direct(links))
    # The same reason of several links is said once.
    sentences = " ".join(dict.fromkeys(reason.message for reason in reasons))
    refusal = NoRoute(
        f"Nothing can answer the role {role!r} now. {sentences}",
        code=reasons[0].code if len({reason.code for reason in reasons}) == 1 else None,
        retry_after=facts.engines.retry_after,
        wait=next((reason.wait for reason in reasons if reason.wait), None),
    )
    return Chain(routes, refusal, _is_direct(links))


def _for_role(route: Route, role: str, registry: Registry) -> Route:
    """Return ``route`` with what the role says: its options win over the entry's."""
    options = {**route.options, **registry.role_options.get(role, {})}
    context = registry.role_context.get(role, ContextPolicy.ERROR)
    return replace(route, role=role, options=options, context=context)


def _links(ids: Sequence[str], facts: _Facts) -> Iterator[_Link]:
    """Yield the links of a role's chain, up to one that says that nothing comes after it."""
    for entry_id in ids:
        entry = facts.registry.entries[entry_id]
        for link in _by_entry(entry, facts):
            yield link
            if isinstance(link, NoRoute) and _is_last(entry, link):
                return


def _is_last(entry: Entry, refusal: NoRoute) -> bool:
    if entry.when_off == WhenOff.WAIT:
        return refusal.wait is not None
    return entry.when_off == WhenOff.ERROR


def _by_entry(entry: Entry, facts: _Facts) -> list[_Link]:
    """Return who answers for ``entry``, or why it cannot, and who answers in its place."""
    if _is_cloud(entry, facts):
        return [_in_cloud(entry.provider, entry, facts)]
    if facts.clouds.is_server:
        return [_in_cloud(facts.clouds.server, entry, facts)]
    link = _by_backend(entry, facts.engines)
    if isinstance(link, Route) or entry.when_off in {WhenOff.NEXT, WhenOff.WAIT}:
        return [link]
    if entry.when_off == WhenOff.ERROR:
        return [NoRoute(link.message, code=link.code, retry_after=link.retry_after)]
    active = facts.engines.active
    if active is None:
        return [link]
    return [_route(entry, active, active.model)]


def _is_cloud(entry: Entry, facts: _Facts) -> bool:
    is_local = entry.provider == ACTIVE or entry.provider in facts.engines.backends
    serves = any(serving.backend == entry.provider for serving in facts.engines.serving)
    return entry.provider in facts.clouds.accounts and not is_local and not serves


def _in_cloud(name: str, entry: Entry, facts: _Facts) -> _Link:
    cloud = facts.clouds.accounts.get(name)
    if cloud is None:
        said = (
            f"the account {name!r}, which is not set up" if name else "an account, and none is set"
        )
        return NoRoute(
            f"{entry.id} is answered elsewhere, since this site runs in server mode. That needs {said}.",
            code="needs_credentials",
        )
    if cloud.why_not:
        return NoRoute(f"{entry.id} needs {name}. {cloud.why_not}", code="needs_credentials")
    return Route(
        provider=name,
        backend="",
        model=entry.model,
        options=entry.options,
        entry=entry.id if entry.id in facts.registry.entries else None,
        capabilities=entry.capabilities,
    )


def _by_backend(entry: Entry, engines: Engines) -> _Link:
    serving = _serving_for(entry, engines)
    if isinstance(serving, NoRoute):
        return serving
    if entry.model and not serving.serves(entry.model):
        return NoRoute(
            f"{entry.id} needs the model {entry.model!r}, and {serving.backend} serves"
            f" {serving.model!r}.",
            code="model_not_served",
            wait=_wait_for_model(entry, serving, engines),
        )
    return _route(entry, serving, entry.model or serving.model)


def _route(entry: Entry, serving: Serving, model: str) -> Route:
    return Route(
        provider=entry.provider,
        backend=serving.backend,
        model=model,
        options=entry.options,
        entry=entry.id,
        capabilities=entry.capabilities,
    )


def _wait_for_model(entry: Entry, serving: Serving, engines: Engines) -> Wait | None:
    """Return the wait for a backend to serve another model than it does; not of whichever is active."""
    wait = engines.wait_for(serving.backend) if entry.provider != ACTIVE else None
    if wait is None or (not wait.on_demand and wait.model != entry.model):
        return None
    return replace(wait, wanted=entry.model)


def _serving_for(entry: Entry, engines: Engines) -> Serving | NoRoute:
    if entry.provider == ACTIVE:
        return engines.active or _not_running(engines)
    for serving in engines.serving:
        if serving.backend == entry.provider:
            return serving
    if entry.provider in engines.backends:
        wait = engines.wait_for(entry.provider)
        if wait is None and engines.why_code != "backend_not_running":
            return _not_needed(engines)
        if wait is not None and wait.on_demand:
            wait = replace(wait, wanted=entry.model)
        return NoRoute(
            f"{entry.id} needs {entry.provider}, which is not running.",
            code="backend_not_running",
            wait=wait,
        )
    return NoRoute(
        f"{entry.id} needs the provider {entry.provider}, which is not set up here.",
        code="needs_credentials",
    )


def _by_served_name(model: str, facts: _Facts) -> _Link:
    engines = facts.engines
    for serving in engines.serving:
        if serving.serves(model):
            return Route(provider=serving.backend, backend=serving.backend, model=model)
    coming = next((wait for wait in engines.waits if wait.model == model), None)
    if coming is not None or not engines.serving:
        return NoRoute(
            f"No engine is running that could serve the model {model[:120]!r}. {engines.why_not}".strip(),
            code=engines.why_code,
            param="model",
            retry_after=engines.retry_after,
            wait=coming,
        )
    raise UnknownRoute(
        f"There is no model {model[:120]!r}. There is: {', '.join(names(facts.registry, engines))}.",
        param="model",
    )


def names(registry: Registry, engines: Engines) -> list[str]:
    """Return every name ``model`` may have: served models, registry ids, roles."""
    served = dict.fromkeys(
        model for serving in engines.serving for model in (serving.model, *serving.also) if model
    )
    return [*served, *registry.entries, *(f"{ROLE_PREFIX}{role}" for role in registry.roles)]
