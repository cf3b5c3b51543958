"""Options of a backend: validated, compared, and what would be started with them."""

from typing import Any

from accounts.errors import MhError
from backends import (
    launch_spec,
    lifecycle,
    secrets,
)
from backends.engines.base import Launch, ModelInfo, Standby, Target
from backends.errors import (
    InvalidOptions,
)
from backends.launch_spec import Change, Difference
from backends.lifecycle import State
from backends.models import (
    Backend,
)
from backends.selectors.rows import (
    active_backend,
    backend_engine,
    backend_get,
    backend_is_alive,
    backend_list,
)


def backend_options(backend: Backend, changes: dict[str, Any] | None = None) -> Any:
    """Return the validated options of ``backend``, with ``changes`` on top.

    Raises:
        InvalidOptions: a value is unknown, of the wrong type or out of bounds; names the first one.
    """
    from pydantic import ValidationError

    engine = backend_engine(backend)
    own = engine.Options.own_names
    values = {
        **own(backend.options), **secrets.unseal(backend.secrets), **own(changes or {}),
    }  # fmt: skip
    try:
        return engine.Options.model_validate(values)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        known = ", ".join(sorted(engine.Options.model_fields))
        hint = f" Options are: {known}." if first["type"] == "extra_forbidden" else ""
        reason = "unknown option." if first["type"] == "extra_forbidden" else f"{first['msg']}."
        msg = f"{engine.title} option {name[:80]!r}: {reason}{hint}"
        raise InvalidOptions(msg, param=f"options.{name[:80]}") from exc


def options_given(backend: Backend, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the options that are set for ``backend``, with ``changes`` on top; secrets are not among them."""
    own = backend_engine(backend).Options.own_names
    return {**own(backend.options), **own(changes or {})}


def backend_config(backend: Backend) -> dict[str, Any]:
    """Return every option with its value; secrets only as whether they are set."""
    options = backend_options(backend)
    hidden = type(options).fields_with("secret")
    values = options.model_dump(mode="json")
    return {
        "backend": backend.name,
        "options": {name: value for name, value in values.items() if name not in hidden},
        "secrets": {name: bool(values[name]) for name in sorted(hidden)},
        "auto_start": backend.auto_start,
        "revision": backend.revision,
        "schema": type(options).model_json_schema(),
    }


def backend_launch(backend: Backend, changes: dict[str, Any] | None = None) -> Launch:
    """Return what would be started with the options of ``backend`` and ``changes``."""
    return backend_engine(backend).launch(backend_options(backend, changes))


def standby_wanted(backend: Backend) -> Standby | None:
    """Return what is to be kept waiting for a start of ``backend``; None where nothing is.

    Also None while that cannot be said, for want of an installation or of valid options.
    """
    try:
        options = backend_options(backend)
        if not getattr(options, "standby", False) or backend.attached:
            return None
        return backend_engine(backend).standby(options)
    except MhError:
        return None


def runs_as_asked(backend: Backend, launch: Launch) -> bool:
    """Return whether ``backend`` serves what ``launch`` would."""
    return (
        lifecycle.is_serving(State(backend.state))
        and backend.model == launch.served_model
        and backend.endpoint == launch.endpoint
    )


def backend_difference(backend: Backend, wanted: Any) -> Difference:
    """Return how ``wanted`` (validated options) differs from what ``backend`` was started with.

    Where that is not known, or is not valid any more, it takes a restart.
    """
    started = backend.started_options
    if started is None:
        return Difference(Change.RESTART)
    token = launch_spec.token_of(started)
    row = Backend(
        name=backend.name,
        engine=backend.engine,
        options=launch_spec.options_of(started),
        secrets=backend.secrets if token is None else token,
    )
    try:
        runs = backend_options(row)
    except InvalidOptions:
        return Difference(Change.RESTART)
    return launch_spec.compare(backend_engine(backend), runs, wanted)


def backend_to_leave(backend: Backend, changes: dict[str, Any]) -> Backend | None:
    """Return what must give way for a switch to ``backend``; None when nothing must.

    That is the active backend if another one, else another one that runs while ``backend`` does not;
    ``backend`` itself if it runs otherwise than asked. One that is parked has given way already.
    """
    alive = [
        row
        for row in backend_list()
        if row.node == backend.node
        and lifecycle.is_alive(State(row.state))
        and row.state != State.PARKED
    ]
    others = [row for row in alive if row.pk != backend.pk]
    active = active_backend()
    if active in others:
        return active
    if backend not in alive:
        return next(iter(others), None)
    try:
        launch = backend_launch(backend, changes)
    except MhError:  # preflight says why
        return None
    return None if runs_as_asked(backend, launch) else backend


def backend_models(name: str) -> list[ModelInfo]:
    """Return the models on this machine that backend ``name`` can serve."""
    backend = backend_get(name)
    return backend_engine(backend).models(backend_options(backend))


def backend_target(backend: Backend) -> Target:
    """Return where the engine of ``backend`` answers, and the key it was started with."""
    token = launch_spec.token_of(backend.started_options)
    keys = secrets.unseal(backend.secrets if token is None else token)
    return Target(
        endpoint=backend.endpoint, served_model=backend.model, api_key=keys.get("apiKey", "")
    )


def model_started(backend: Backend) -> str:
    """Return the model that ``backend`` was last started with, by its name on this machine."""
    given = backend_engine(backend).Options.own_names(backend.started_options or {})
    named = given.get("model") or getattr(backend_options(backend), "model", "")
    return str(named) if backend_is_alive(backend) else ""
