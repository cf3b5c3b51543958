"""Errors of the router.

MhError
├── MethodNotAllowed                      405
├── InvalidRequest ┬─ ContextTooLong      400
│                  └─ NotSupported        400
├── Invalid        ── InvalidProvider     422
│                     └─ CredentialsRefused
├── NotAllowed     ── SitesOption         403
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
├── UpstreamFailed ┬─ EngineStopped       502
│                  ├─ UpstreamGarbled     502
│                  ├─ FormatNotFollowed   502
│                  ├─ ProviderRefused     502
│                  └─ JobFailed           502
└── UpstreamTimedOut ─ JobTimedOut        504
"""

from typing import Any

from accounts.errors import (
    Conflict,
    Invalid,
    InvalidRequest,
    MhError,
    NotAllowed,
    NotFound,
    Unavailable,
    UpstreamFailed,
    UpstreamTimedOut,
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

    def __init__(self, message: str, *, count: int = 0, limit: int = 0, **details: Any) -> None:
        super().__init__(message, **details)
        #: Tokens of the prompt, and tokens the model takes in all; 0 where the engine did not say.
        self.count, self.limit = count, limit


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


class SitesOption(NotAllowed):
    """An option that a model is loaded with: the site's models and roles set it, for everybody."""

    code = "option_not_allowed"


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


class ProviderRefused(UpstreamFailed):
    """The provider will not serve this account until its owner does something: key, credits, a paused endpoint."""

    code, retryable = "upstream_refused_key", False


class JobFailed(UpstreamFailed):
    """A job was given to the provider and brought no answer. Sent again, it would run, and cost, twice."""

    code, retryable = "job_failed", False


class JobTimedOut(UpstreamTimedOut):
    """A job did not end in its time; it is cancelled. Sent again, it would run, and cost, twice."""

    code, retryable = "job_timed_out", False


class FormatNotFollowed(UpstreamFailed):
    """The model's answer is not in the format that was asked for, also when it was asked again."""

    code = "format_not_followed"


def too_long(count: int, limit: int, *, at_least: bool = False) -> ContextTooLong:
    """Return the error for a prompt of ``count`` tokens where a model takes ``limit``; 0 is unknown.

    ``at_least``: an engine has stopped counting there (vLLM counts one token more than it takes).
    """
    number = f"at least {count}" if at_least else str(count)
    size = f"has {number} tokens" if count else "is too long"
    room = f"the model takes {limit} in all" if limit else "for the model"
    joined = f"{size}; {room}" if count or limit else f"{size} {room}"
    text = f"The prompt {joined}. Shorten the messages."
    known = 0 if at_least else count
    return ContextTooLong(text, count=known, limit=limit, param="messages")
