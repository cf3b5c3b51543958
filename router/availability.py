"""Can a model of the registry answer? Pure but for ``facts_now``, which reads rows and what the observer saw.

A model that is not installed is told here, in the doctor and in the refusal of a chat, not by an engine's 404.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict

from accounts.errors import MhError
from backends import selectors as backends
from backends.engines.base import ModelInfo
from backends.models import Backend
from router.errors import NoRoute
from router.models import ProviderAccount
from router.providers.registry import providers
from router.registry_reads import Account, account_of, deployment
from router.resolution import ACTIVE, ROLE_PREFIX, Entry, Registry, Serving


class Availability(StrEnum):
    """Whether a model can answer."""

    AVAILABLE = "available"
    NOT_INSTALLED = "not installed"
    BACKEND_OFF = "backend off"
    NEEDS_CREDENTIALS = "needs credentials"


class AvailabilityPayload(TypedDict):
    """The same for clients."""

    state: str
    #: Why it cannot answer, and what to do; empty when it can.
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacts:
    """What is known of one local backend."""

    name: str
    title: str
    is_installed: bool
    #: Why the engine is not installed, or not running.
    reason: str = ""
    #: What it serves now; None while it does not.
    serving: Serving | None = None
    #: Loads whichever of its models is asked for.
    many_models: bool = False
    #: Its models on this machine; None where that is not known.
    models: Sequence[ModelInfo] | None = None
    same_model: Callable[[str, str], bool] = field(default=lambda one, other: one == other)

    def found(self, model: str) -> ModelInfo | None:
        """Return what is on this machine under the name ``model``."""
        named = (info for info in self.models or () if self._is(info, model))
        return next(named, None)

    def _is(self, info: ModelInfo, model: str) -> bool:
        return model == info.path or self.same_model(info.id, model)

    def serves(self, model: str) -> bool:
        """Say whether it answers to ``model`` now."""
        if self.serving is None:
            return False
        return self.serving.serves(model) or self.same_model(self.serving.model, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of everything an entry can name."""

    local: Mapping[str, LocalFacts] = field(default_factory=dict)
    #: Name of the backend that answers who names none.
    active: str = ""
    accounts: Mapping[str, Account] = field(default_factory=dict)
    #: Accounts whose credentials did not work when they were last tried, and what was said.
    refused: Mapping[str, str] = field(default_factory=dict)
    is_server: bool = False
    server_account: str = ""
    #: Names of the provider plug-ins.
    kinds: frozenset[str] = frozenset()


def availability_of(entry: Entry, facts: Facts) -> tuple[Availability, str]:
    """Return whether ``entry`` can answer, and why not: a sentence that says what to do."""
    if entry.provider != ACTIVE and entry.provider not in facts.local:
        return _of_account(entry.provider, facts)
    if facts.is_server:
        return _of_account(facts.server_account, facts)
    local = facts.local.get(facts.active if entry.provider == ACTIVE else entry.provider)
    if local is None:
        return Availability.NOT_INSTALLED, "No engine plug-in is installed."
    return _of_local(entry, local)


def _of_account(name: str, facts: Facts) -> tuple[Availability, str]:
    account = facts.accounts.get(name)
    if account is None and (not name or name in facts.kinds):
        what = f"{name} needs an account" if name else "Server mode needs an account that answers"
        return (
            Availability.NEEDS_CREDENTIALS,
            f"{what}. Add it on the settings page, with POST /api/providers or in etc/deployment.json.",
        )
    if account is None:
        there = ", ".join([ACTIVE, *facts.local, *facts.accounts])
        return (
            Availability.NOT_INSTALLED,
            f"There is no provider {name!r} here. There are: {there}.",
        )
    if not account.ready:
        return Availability.NEEDS_CREDENTIALS, account.why_not
    if name in facts.refused:
        return (
            Availability.NEEDS_CREDENTIALS,
            f"{name} refused the credentials when they were last tried. {facts.refused[name]}",
        )
    return Availability.AVAILABLE, ""


def _of_local(entry: Entry, local: LocalFacts) -> tuple[Availability, str]:
    if not local.is_installed and local.serving is None:
        return Availability.NOT_INSTALLED, local.reason or f"{local.title} is not installed."
    if entry.model and not local.serves(entry.model):
        missing = why_missing(entry.model, local)
        if missing:
            return Availability.NOT_INSTALLED, missing
    if local.serving is None:
        why = local.reason or f"{local.title} is not running."
        return Availability.BACKEND_OFF, f"{why} Start it: mh {local.name} start"
    if not entry.model or local.many_models or local.serves(entry.model):
        return Availability.AVAILABLE, ""
    serves = f"{local.title} serves {local.serving.model!r} now, not {entry.model!r}."
    return Availability.BACKEND_OFF, f"{serves} Change it: mh {local.name} switch {entry.model}"


def why_missing(model: str, local: LocalFacts) -> str:
    """Return why ``model`` cannot be served for want of its files; empty when they are there, or nobody knows."""
    if local.models is None:
        return ""
    info = local.found(model)
    if info is None:
        return f"{local.title} has no model {model!r} on this machine. Download it: mh {local.name} pull {model}"
    return f"{local.title} cannot serve {model!r}: {info.problem}" if info.problem else ""


def payload_of(entry: Entry, facts: Facts) -> AvailabilityPayload:
    """Return ``availability_of`` for clients."""
    state, message = availability_of(entry, facts)
    return AvailabilityPayload(state=state.value, message=message)


# -- what is known now


def facts_now() -> Facts:
    """Return what is known now. Reads rows, the disk, and what the observer saw last; asks no engine."""
    choice = deployment()
    rows = list(ProviderAccount.objects.all())
    active = backends.active_backend()
    return Facts(
        local=local_facts(),
        active=active.name if active else "",
        accounts={row.name: account_of(row) for row in rows},
        refused={row.name: row.check_message for row in rows if row.check_good is False},
        is_server=choice.mode == "server",
        server_account=choice.server_account,
        kinds=frozenset(providers()),
    )


def local_facts(names: Collection[str] | None = None) -> dict[str, LocalFacts]:
    """Return what is known of the local backends ``names``, by name; None means all of them."""
    detected = backends.detect()
    serving = {
        found.backend: Serving(found.backend, found.target.served_model, found.also)
        for found in backends.serving_targets()
    }
    return {
        row.name: _local(
            row, detected[row.name]["installed"], detected[row.name]["reason"], serving
        )
        for row in backends.backend_list()
        if names is None or row.name in names
    }


def _local(
    row: Backend, is_installed: object, reason: str, serving: Mapping[str, Serving]
) -> LocalFacts:
    engine = backends.backend_engine(row)
    return LocalFacts(
        name=row.name,
        title=engine.title,
        is_installed=bool(is_installed),
        reason=reason,
        serving=serving.get(row.name),
        many_models=engine.capabilities.many_models,
        models=_models(row),
        same_model=engine.is_same_model,
    )


def _models(row: Backend) -> Sequence[ModelInfo] | None:
    """Return the models on the disk; of an engine that is somebody else's what the observer heard from it."""
    if row.attached:
        heard = backends.models_seen(row.name)
        return (
            None if heard is None else [ModelInfo(id=one, path="", size_bytes=0) for one in heard]
        )
    try:
        return backends.backend_models(row.name)
    except (MhError, OSError, NotImplementedError):
        return None


def refusal_explained(
    refusal: NoRoute, registry: Registry, *, role: str | None, model: str | None
) -> NoRoute:
    """Return ``refusal`` with what is not installed of the models behind ``role`` or ``model``."""
    if model is not None and model.startswith(ROLE_PREFIX):
        role, model = model.removeprefix(ROLE_PREFIX), None
    ids = registry.roles.get(role, ()) if role is not None else [model or ""]
    entries = [registry.entries[one] for one in ids if one in registry.entries]
    wanted = [entry for entry in entries if entry.model]
    local = local_facts({entry.provider for entry in wanted}) if wanted else {}
    missing = [
        why
        for entry in wanted
        if entry.provider in local and not local[entry.provider].serves(entry.model)
        for why in [why_missing(entry.model, local[entry.provider])]
        if why
    ]
    if not missing:
        return refusal
    said = " ".join([refusal.message, *dict.fromkeys(missing)])
    code = "model_not_installed" if len(missing) == len(entries) else refusal.code
    return NoRoute(said, code=code, param=refusal.param, retry_after=refusal.retry_after)
