"""Errors of the router.

MhError
├── MethodNotAllowed                      405
├── InvalidRequest ┬─ ContextTooLong      400
│                  └─ NotSupported        400
├── Invalid        ── InvalidProvider     422
│                     └─ CredentialsRefused
├── NotFound       ┬─ UnknownRoute        404
│                  ├─ UnknownModel        404
│                  ├─ UnknownRole         404
│                  └─ UnknownAccount      404
├── Conflict       ┬─ DuplicateChat       409
│                  ├─ AlreadyThere        409
│                  └─ InUse               409
├── Unavailable    ── NoRoute             503
│                  ├─ EngineUnreachable   503
│                  └─ CredentialsUntried  503
├── UpstreamFailed ── EngineStopped       502
│                  └─ UpstreamGarbled     502
└── UpstreamTimedOut                      504
"""

from typing import Any

from accounts.errors import (
    Conflict,
    Invalid,
    InvalidRequest,
    MhError,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from backends.selectors import Wait


class MethodNotAllowed(MhError):
    """The path exists, and not with this method. ``allowed`` goes into the ``Allow`` header."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not possible here. Use {' or '.join(allowed)}.")
        self.allowed = allowed


class ContextTooLong(InvalidRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class NotSupported(InvalidRequest):
    """The provider that answers has no such thing."""

    code = "not_supported"


class InvalidProvider(Invalid):
    """What is set for a provider is not complete, or not acceptable."""

    code = "invalid_provider"


class CredentialsRefused(InvalidProvider):
    """The provider does not take the credentials; they were not saved."""

    code = "credentials_refused"


class CredentialsUntried(Unavailable):
    """The provider could not be asked whether the credentials are good; they were not saved."""

    code = "credentials_untried"


class UnknownModel(NotFound):
    """The registry has no model of this id."""

    code = "model_not_found"


class UnknownRole(NotFound):
    """There is no role of this name, or nothing is set for it."""

    code = "role_not_found"


class UnknownAccount(NotFound):
    """There is no provider account of this name."""

    code = "provider_not_found"


class AlreadyThere(Conflict):
    """Something has this name already."""

    code = "already_exists"


class InUse(Conflict):
    """Something else needs it."""

    code = "in_use"


class UnknownRoute(NotFound):
    """No role, registry entry or served model has this name."""

    code = "model_not_found"


class DuplicateChat(Conflict):
    """A chat with this id is running on this socket."""

    code = "duplicate_id"


class NoRoute(Unavailable):
    """The role is known, and nothing in its chain can answer now."""

    code = "no_route"

    def __init__(self, message: str, *, wait: Wait | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        #: What would change that, where something is worth waiting for.
        self.wait = wait


class EngineUnreachable(Unavailable):
    """The engine should be running, and nothing answers at its address."""

    code = "engine_unreachable"


class EngineStopped(UpstreamFailed):
    """The engine went away, or broke off, before the answer was complete."""

    code = "engine_stopped"


class UpstreamGarbled(UpstreamFailed):
    """The engine sent something that is not what its protocol says."""

    code = "upstream_garbled"
