"""Errors of backends.

MhError
├── NotFound         ── UnknownBackend, UnknownOperation, UnknownModel, UnknownStart, UnknownRevision
├── Conflict         ── OperationConflict, OperationLost, ModelInUse, ModelNotOurs, CannotDo,
 │                       EngineAttached, ConfigurationMoved
 ├── Invalid          ── InvalidOptions, PreflightFailed, KeyReused
├── Unavailable      ── WorkerUnavailable, BackendNotRunning ── BackendHeld, BackendMoved
└── UpstreamFailed   ── StartFailed, StopFailed, PullFailed, DeleteFailed
"""

from accounts.errors import Conflict, Invalid, NotFound, Unavailable, UpstreamFailed


class UnknownBackend(NotFound):
    """No backend has this name."""

    code = "backend_not_found"


class UnknownOperation(NotFound):
    """No operation has this id."""

    code = "operation_not_found"


class UnknownModel(NotFound):
    """The engine does not have this model."""

    code = "model_not_found"


class UnknownStart(NotFound):
    """No start with this id is kept."""

    code = "start_not_found"


class UnknownRevision(NotFound):
    """No revision of the options has this number."""

    code = "revision_not_found"


class OperationConflict(Conflict):
    """Another operation stands in the way."""

    code = "operation_conflict"


class ConfigurationMoved(Conflict):
    """Somebody else changed the options since the ones that are to be changed were read."""

    code = "configuration_moved"


class OperationCancelled(Conflict):
    """The operation was asked to stop."""

    code = "operation_cancelled"


class OperationLost(Conflict):
    """Another runner has taken the operation over; this one must let go."""

    code = "operation_lost"


class ModelInUse(Conflict):
    """The model is loaded, or is the one that the next start would load."""

    code = "model_in_use"


class ModelNotOurs(Conflict):
    """The model lies where this site only reads."""

    code = "model_not_ours"


class CannotDo(Conflict):
    """The engine has no such ability."""

    code = "engine_cannot"


class InvalidOptions(Invalid):
    """An option is unknown, of the wrong type or out of bounds."""

    code = "invalid_options"


class KeyReused(Invalid):
    """An ``Idempotency-Key`` comes with another request than the first time."""

    code = "idempotency_key_reused"


class PreflightFailed(Invalid):
    """The engine cannot be started as asked; nothing was touched."""

    code = "preflight_failed"


class EngineNotInstalled(Conflict):
    """The engine is not installed on this machine."""

    code = "engine_not_installed"


class EngineAttached(Conflict):
    """Somebody else started the engine, so it is not ours to end."""

    code = "attached"


class WorkerUnavailable(Unavailable):
    """No worker of the GPU machine is running."""

    code = "worker_unavailable"


class BackendNotRunning(Unavailable):
    """The backend that should answer is not running."""

    code = "backend_not_running"


class BackendHeld(BackendNotRunning):
    """The backend is being switched or restarted: requests wait for it."""


class BackendMoved(BackendNotRunning):
    """What the request was to be sent to does not serve any more; something else may."""


class StartFailed(UpstreamFailed):
    """The engine's process ended, or was not ready in time.

    ``detail`` is the engine's own reason, for the owner; ``message`` is for everybody.
    """

    code = "start_failed"
    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class StopFailed(UpstreamFailed):
    """Processes or memory of the engine are still there after the bounded wait."""

    code = "stop_failed"


class PullFailed(UpstreamFailed):
    """A model could not be downloaded; what was fetched is kept, and the same request goes on there."""

    code = "pull_failed"


class DeleteFailed(UpstreamFailed):
    """A model could not be deleted, or not all of it."""

    code = "delete_failed"
