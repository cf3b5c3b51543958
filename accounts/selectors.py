"""All reads of users and tokens."""

from datetime import datetime
from typing import TypedDict

from django.db.models import Q, QuerySet
from django.utils import timezone
from knox.crypto import hash_token

from accounts.actors import Actor
from accounts.errors import NotFound
from accounts.models import Role, Token, User
from accounts.permissions import Permission, is_allowed

#: Longer than any token knox makes; longer input is not worth hashing.
_TOKEN_LENGTH_MAX = 256


class TokenPayload(TypedDict):
    """What clients see of a token."""

    id: str
    name: str
    user: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class UserPayload(TypedDict):
    """What owners see of a user."""

    username: str
    role: str
    active: bool
    created_at: datetime
    last_login_at: datetime | None


class MePayload(TypedDict):
    """What somebody signed in sees of themselves."""

    username: str
    role: str
    permissions: list[str]
    scopes: list[str]


def owner_first() -> User | None:
    """Return the active owner who was here first; None on a site without one."""
    return User.objects.filter(role=Role.OWNER, is_active=True).order_by("pk").first()


def users() -> QuerySet[User]:
    """Return every user, by name."""
    return User.objects.order_by("username")


def user_payload(user: User) -> UserPayload:
    """Return what owners see of ``user``."""
    return UserPayload(
        username=user.get_username(),
        role=user.role,
        active=user.is_active,
        created_at=user.date_joined,
        last_login_at=user.last_login,
    )


def user_get(username: str) -> User:
    """Return a user by name.

    Raises:
        NotFound: there is none.
    """
    user = User.objects.filter(username=username).first()
    if user is None:
        raise NotFound(f"There is no user named {username}.", code="user_not_found", param="user")
    return user


def usernames() -> list[str]:
    """Return the names of the users who may sign in, in order: for owners to choose from."""
    active = User.objects.filter(is_active=True).order_by("username")
    return list(active.values_list("username", flat=True))


def token_find(plain: str) -> Token | None:
    """Return the token that ``plain`` is; None unless it exists, has not expired, and its user is active."""
    if len(plain) > _TOKEN_LENGTH_MAX or not plain.isascii():
        return None
    found: Token | None = (
        Token.objects.select_related("user")
        .filter(digest=hash_token(plain), user__is_active=True)
        .filter(Q(expiry__isnull=True) | Q(expiry__gt=timezone.now()))
        .first()
    )
    return found


def token_is_valid(public_id: str) -> bool:
    """Return whether the token still works: not revoked, not expired, its user active."""
    usable = Token.objects.filter(public_id=public_id, user__is_active=True)
    return bool(usable.filter(Q(expiry__isnull=True) | Q(expiry__gt=timezone.now())).exists())


def tokens(*, actor: Actor, username: str | None = None) -> QuerySet[Token]:
    """Return the tokens ``actor`` may see, newest first: their own; an owner's view is everybody's."""
    query: QuerySet[Token] = Token.objects.select_related("user").order_by("-created", "public_id")
    if actor.is_system or is_allowed(actor.user, Permission.USERS_MANAGE, scopes=actor.scopes):
        return query if username is None else query.filter(user__username=username)
    own: QuerySet[Token] = query.filter(user=actor.user) if actor.user is not None else query.none()
    return own if username is None else own.filter(user__username=username)


def token_get(*, actor: Actor, public_id: str) -> Token:
    """Return one of the tokens ``actor`` may see.

    Raises:
        NotFound: there is none; somebody else's is not told from none.
    """
    token = tokens(actor=actor).filter(public_id=public_id).first()
    if token is None:
        raise NotFound(f"There is no token {public_id}.", code="token_not_found")
    return token


def token_payload(token: Token) -> TokenPayload:
    """Return what clients see of ``token``."""
    return TokenPayload(
        id=token.public_id,
        name=token.name,
        user=token.user.get_username(),
        scopes=list(token.scopes),
        created_at=token.created,
        expires_at=token.expiry,
        last_used_at=token.last_used_at,
    )


def me_payload(actor: Actor) -> MePayload:
    """Return who ``actor`` is and what they may do here, with the scopes of their token applied.

    Raises:
        NotFound: nobody is signed in.
    """
    if actor.user is None:
        raise NotFound("Nobody is signed in.")
    return MePayload(
        username=actor.user.get_username(),
        role=actor.user.role,
        permissions=[p.value for p in Permission if is_allowed(actor.user, p, scopes=actor.scopes)],
        scopes=list(actor.scopes),
    )
