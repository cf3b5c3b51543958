"""The models of a backend on this machine, and what stands against deleting one."""

import contextlib
from typing import Any, Final, TypedDict

import httpx

from accounts.errors import MhError
from backends import selectors
from backends.engines.base import Engine, ModelInfo
from backends.errors import ModelInUse
from backends.models import Backend

#: Seconds that a running engine may take to say what it has loaded.
_PROBE_TIMEOUT: Final = 2.0


class ModelPayload(TypedDict):
    """One model, as clients see it."""

    id: str
    path: str
    size_bytes: int
    problem: str
    place: str
    architecture: str
    quantization: str
    context_length: int | None
    #: In the memory of the running engine now.
    loaded: bool
    #: The one that the next start serves.
    configured: bool


def model_list(name: str, query: str = "") -> list[ModelPayload]:
    """Return the models of backend ``name`` whose names have ``query`` in them, whatever the case."""
    backend = selectors.backend_get(name)
    engine, options = selectors.backend_engine(backend), selectors.backend_options(backend)
    loaded, configured = models_loaded(backend), str(getattr(options, "model", ""))
    return [
        _payload(
            info,
            loaded=any(_is_called(engine, info, one) for one in loaded),
            configured=_is_called(engine, info, configured),
        )
        for info in _infos(backend, engine, options)
        if query.lower() in info.id.lower()
    ]


def _payload(info: ModelInfo, *, loaded: bool, configured: bool) -> ModelPayload:
    return ModelPayload(
        id=info.id,
        path=info.path,
        size_bytes=info.size_bytes,
        problem=info.problem,
        place=info.place,
        architecture=info.architecture,
        quantization=info.quantization,
        context_length=info.context_length,
        loaded=loaded,
        configured=configured,
    )


def _is_called(engine: Engine, info: ModelInfo, name: str) -> bool:
    return bool(name) and (name == info.path or engine.is_same_model(info.id, name))


def _infos(backend: Backend, engine: Engine, options: Any) -> list[ModelInfo]:
    """Read the disk; of an engine that is somebody else's ask it, for its folders may be closed to us."""
    if backend.attached and selectors.backend_answers(backend):
        with contextlib.suppress(httpx.HTTPError, OSError, NotImplementedError):
            return engine.models_of(selectors.backend_target(backend), timeout=_PROBE_TIMEOUT)
    return engine.models(options)


def models_loaded(backend: Backend) -> list[str]:
    """Return the names of the models in the memory of the backend's engine now, as far as it says."""
    if not selectors.backend_answers(backend):
        return [name for name in _served(backend) if selectors.backend_is_alive(backend)]
    engine = selectors.backend_engine(backend)
    if not engine.capabilities.many_models:
        return _served(backend)
    try:
        found = engine.loaded(selectors.backend_target(backend), timeout=_PROBE_TIMEOUT)
    except (httpx.HTTPError, OSError, MhError):
        return _served(backend)
    return [model.id for model in found]


def _served(backend: Backend) -> list[str]:
    """Return what the engine was started with, by the name clients use and by the configured one."""
    started = selectors.model_started(backend)
    return [name for name in (backend.model, started) if name]


def check_unused(backend: Backend, model: str, *, force: bool = False) -> None:
    """Raise ``ModelInUse`` where deleting ``model`` would take it away from somebody.

    Args:
        backend: whose model it is.
        model: its name.
        force: a model that is only configured may go; one in memory may not.
    """
    engine = selectors.backend_engine(backend)
    if any(engine.is_same_model(one, model) for one in models_loaded(backend)):
        raise ModelInUse(
            f"{engine.title} has {model} in memory. Stop it, or have it serve another model, first: "
            f"mh {backend.name} stop",
            param="model",
        )
    configured = str(getattr(selectors.backend_options(backend), "model", ""))
    if configured and not force and engine.is_same_model(configured, model):
        raise ModelInUse(
            f"{model} is the configured model of {engine.title}: without it the next start fails. Choose "
            f"another one first (mh {backend.name} config model NAME), or delete it with force.",
            code="model_is_configured",
            param="model",
        )


def check_known(backend: Backend, model: str, options: Any) -> None:
    """Raise ``UnknownModel`` or ``ModelNotOurs`` where ``model`` cannot be deleted, as far as the disk says.

    Of an engine that is somebody else's only itself knows.
    """
    if not (backend.attached and selectors.backend_answers(backend)):
        selectors.backend_engine(backend).check_delete(options, model)
