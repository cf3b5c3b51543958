"""The error every app's tree grows from.

MhError
├── InvalidRequest          400
├── NotAuthenticated        401
├── NotAllowed              403
├── NotFound                404
├── Conflict                409
├── TooLarge                413
├── Invalid                 422
├── TooMany                 429
├── UpstreamFailed          502
├── Unavailable             503
└── UpstreamTimedOut        504

``audit``, ``backends`` and ``router`` derive theirs from these, so one handler turns any of them
into the error body of every surface (REST, server-sent events, websocket, command line).
"""

from typing import TypedDict


class ErrorBody(TypedDict):
    """The error object clients see, on every surface."""

    message: str
    type: str
    code: str
    param: str | None
    request_id: str


class MhError(Exception):
    """Something a person or a client can be told about.

    Args:
        message: a sentence that says what is wrong and what to do.
        code: machine-readable reason, ``snake_case``; defaults to the class's.
        param: the request field at fault, if one is.
        retry_after: seconds after which trying again can help, sent as ``Retry-After``.
    """

    status = 500
    type = "server_error"
    code = "internal_error"
    #: Whether the same request may succeed later without being changed.
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after

    def body(self, request_id: str) -> ErrorBody:
        """Return the error object for a client."""
        return ErrorBody(
            message=self.message,
            type=self.type,
            code=self.code,
            param=self.param,
            request_id=request_id,
        )


class InvalidRequest(MhError):
    """The request cannot be understood: malformed JSON, a missing field, a wrong type."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class NotAuthenticated(MhError):
    """Nobody is signed in, or the token is unknown, revoked or expired."""

    status, type, code = 401, "authentication_error", "not_authenticated"


class NotAllowed(MhError):
    """The one who asks may not do this."""

    status, type, code = 403, "permission_error", "not_allowed"


class NotFound(MhError):
    """What was named does not exist."""

    status, type, code = 404, "not_found_error", "not_found"


class Conflict(MhError):
    """The thing is in a state that does not allow this now."""

    status, type, code = 409, "conflict_error", "conflict"


class TooLarge(MhError):
    """The body is larger than the site accepts."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class Invalid(MhError):
    """The request is understood, and a value in it is not acceptable."""

    status, type, code = 422, "invalid_request_error", "invalid_value"


class TooMany(MhError):
    """Too many requests; see ``retry_after``."""

    status, type, code, retryable = 429, "rate_limit_error", "too_many_requests", True


class UpstreamFailed(MhError):
    """The engine or provider failed."""

    status, type, code, retryable = 502, "upstream_error", "upstream_failed", True


class Unavailable(MhError):
    """What is needed is not running now."""

    status, type, code, retryable = 503, "unavailable_error", "unavailable", True


class UpstreamTimedOut(MhError):
    """The engine or provider did not answer in time."""

    status, type, code, retryable = 504, "timeout_error", "upstream_timed_out", True
