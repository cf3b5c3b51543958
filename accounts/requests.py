"""From a request to the one who asks."""

import hashlib
from contextvars import ContextVar, Token

from django.http import HttpRequest

from accounts import database, services
from accounts.actors import Actor, Surface
from accounts.database import SharedReads
from accounts.errors import NotAuthenticated
from accounts.ids import unique_hex
from accounts.models import Token as BearerToken
from accounts.models import User

_tokens: SharedReads[BearerToken] = SharedReads(services.token_is_fresh)
_request_id: ContextVar[str] = ContextVar("mh_request_id", default="")


def current_request_id() -> str:
    """Return the id of the request being answered, empty outside of one."""
    return _request_id.get()


def request_id_new() -> str:
    """Return a new id for a request: 16 random bytes, hexadecimal."""
    return unique_hex(128)


def request_id_set(value: str) -> Token[str]:
    """Make ``value`` the id of the request being answered; give the result to ``request_id_reset``."""
    return _request_id.set(value)


def request_id_reset(token: Token[str]) -> None:
    """Undo ``request_id_set``."""
    _request_id.reset(token)


def source_address(request: HttpRequest) -> str:
    """Return the address the connection came from, as the server saw it."""
    return str(request.META.get("REMOTE_ADDR") or "")[:64]


def bearer_of(header: str) -> str | None:
    """Return the token of an ``Authorization`` header's value; None where it is of another scheme.

    Raises:
        NotAuthenticated: the scheme is ``Bearer`` and what follows is not one word.
    """
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = rest.strip()
    if not token or " " in token:
        raise NotAuthenticated(
            "The Authorization header must be 'Bearer <token>'. Create a token with `mh token create`.",
            code="invalid_token",
        )
    return token


def has_bearer(request: HttpRequest) -> bool:
    """Return whether the request brings a bearer token, good or bad. Its cookies then count for nothing."""
    return request.headers.get("Authorization", "").strip().lower().partition(" ")[0] == "bearer"


def actor_of(
    request: HttpRequest, surface: Surface = "rest", *, asked: float | None = None
) -> Actor:
    """Return who asks in a synchronous view, DRF's or a plain one.

    Args:
        request: what they send.
        surface: what they send it to.
        asked: when it came (``time.perf_counter``), where many come at once: one look at their token
            does for all that came before it.

    Raises:
        NotAuthenticated: a plain view's bearer token is unknown, revoked or expired.
    """
    auth = getattr(request, "auth", None)
    if auth is None and has_bearer(request):
        header = request.headers.get("Authorization", "")
        auth = _token_of(header, source_address(request), asked)
    if isinstance(auth, BearerToken):
        return _actor(request, surface, auth.user, tuple(auth.scopes), auth.public_id)
    return _actor(request, surface, getattr(request, "user", None))


async def authenticate(request: HttpRequest, surface: Surface) -> Actor:
    """Return who asks in a plain async view; ``Actor.user`` is None where nobody is signed in.

    Holds no database connection after it returns. CSRF is checked by the middleware.

    Raises:
        NotAuthenticated: the bearer token is unknown, revoked or expired.
    """
    return await database.in_database(actor_of, request, surface)


def actor_of_bearer(
    authorization: str, address: str, surface: Surface, *, asked: float | None = None
) -> Actor:
    """Return who asks with this ``Authorization`` header, which has a bearer token, from this address.

    Raises:
        NotAuthenticated: the token is unknown, revoked or expired.
    """
    token = _token_of(authorization, address[:64], asked)
    return Actor(
        user=token.user,
        surface=surface,
        request_id=current_request_id(),
        source_address=address[:64],
        scopes=tuple(token.scopes),
        token_id=token.public_id,
    )


def _token_of(authorization: str, address: str, asked: float | None) -> BearerToken:
    plain = bearer_of(authorization) or ""

    def use() -> BearerToken:
        return services.token_use(plain, source_address=address)

    if asked is None:
        return use()
    return _tokens.get(hashlib.sha256(plain.encode()).digest(), asked, use)


def _actor(
    request: HttpRequest,
    surface: Surface,
    user: object,
    scopes: tuple[str, ...] = (),
    token_id: str = "",
) -> Actor:
    signed_in = user if getattr(user, "is_authenticated", False) else None
    # ``request.user`` is Django's lazy wrapper; what it wraps is what everybody else expects.
    wrapped = getattr(signed_in, "_wrapped", signed_in)
    return Actor(
        user=wrapped if isinstance(wrapped, User) else None,
        surface=surface,
        request_id=current_request_id(),
        source_address=source_address(request),
        scopes=scopes,
        token_id=token_id,
    )
