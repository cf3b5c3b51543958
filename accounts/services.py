"""All writes to users and tokens. Each change and the record of it commit together."""

import logging
import secrets
from datetime import timedelta
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from accounts import selectors
from accounts.access import refuse, require
from accounts.actors import Actor
from accounts.errors import Conflict, Invalid, NotAllowed, NotAuthenticated
from accounts.models import Role, Token, User
from accounts.permissions import Permission
from accounts.signals import announce

logger = logging.getLogger(__name__)

#: ``Token.last_used_at`` is written at most this often.
LAST_USED_EVERY = timedelta(minutes=1)
#: A token lives at most this long, in days.
TOKEN_DAYS_MAX = 3650
TOKEN_DAYS_DEFAULT = 365
#: One bad token of one address is recorded at most this often, in seconds.
_BAD_TOKEN_RECORD_SECONDS = 60


def user_create(
    *, actor: Actor, username: str, password: str, role: str = Role.STANDARD, email: str = ""
) -> User:
    """Create a user.

    Raises:
        Invalid: the name, role or password is not acceptable.
        Conflict: the name is taken.
    """
    require(actor, Permission.USERS_MANAGE, target_type="user", target_id=username)
    user = User(username=username, email=email, role=role)
    try:
        validate_password(password, user)
        user.set_password(password)
        user.clean_fields(exclude=["last_login"])
    except ValidationError as error:
        raise Invalid(" ".join(error.messages), code="invalid_user") from error
    try:
        with transaction.atomic():
            user.save(force_insert=True)
            announce(
                actor=actor,
                event="user.created",
                category="user",
                target_type="user",
                target_id=username,
                after={"username": username, "role": role},
            )
    except IntegrityError as error:
        raise Conflict(
            f"There is a user named {username} already.", code="user_exists", param="username"
        ) from error
    return user


def user_save(*, actor: Actor, user: User, message: str = "") -> User:
    """Save a user made or changed in a form, and record what changed (never the password).

    Raises:
        NotAllowed, NotAuthenticated: ``actor`` may not.
        Conflict: it would leave the site without an active owner.
    """
    name = user.get_username()
    require(actor, Permission.USERS_MANAGE, target_type="user", target_id=name)
    with transaction.atomic():
        stored = User.objects.filter(pk=user.pk).first() if user.pk else None
        user.save()
        _keep_an_owner()
        announce(
            actor=actor,
            event="user.changed" if stored else "user.created",
            category="user",
            target_type="user",
            target_id=name,
            message=message,
            before=_audited(stored) if stored else None,
            after=_audited(user),
        )
    return user


def user_delete(*, actor: Actor, user: User) -> None:
    """Delete a user with their tokens. Audit events keep the name.

    Raises:
        NotAllowed, NotAuthenticated: ``actor`` may not.
        Conflict: it would leave the site without an active owner.
    """
    name = user.get_username()
    require(actor, Permission.USERS_MANAGE, target_type="user", target_id=name)
    with transaction.atomic():
        before = _audited(user)
        user.delete()
        _keep_an_owner()
        announce(
            actor=actor,
            event="user.deleted",
            category="user",
            target_type="user",
            target_id=name,
            before=before,
        )


def _audited(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in ("username", "email", "role", "is_active")}


def _keep_an_owner() -> None:
    if selectors.owner_first() is None:
        raise Conflict("The site needs one active owner.", code="last_owner")


def owner_ensure(username: str, password: str | None) -> tuple[User, str | None]:
    """Make sure that the site has an owner, on first boot.

    Returns:
        The owner, and the password made up for it: None where ``password`` was given, or where
        an owner existed, whose password then stays as it is.
    """
    with transaction.atomic():
        owner = selectors.owner_first()
        if owner is not None:
            return owner, None
        generated = None if password else secrets.token_urlsafe(12)
        user, created = User.objects.get_or_create(username=username)
        user.role = Role.OWNER
        user.is_active = True
        if created or not user.has_usable_password():
            user.set_password(password or generated)
        user.save()
        announce(
            actor=Actor.system(),
            event="user.owner_created",
            category="user",
            target_type="user",
            target_id=username,
            after={"username": username, "role": Role.OWNER.value},
        )
    return user, generated


def token_create(
    *,
    actor: Actor,
    user: User,
    name: str,
    expires_days: int | None = TOKEN_DAYS_DEFAULT,
    scopes: tuple[str, ...] | list[str] = (),
) -> tuple[Token, str]:
    """Create a bearer token for ``user``.

    Args:
        actor: everybody may make their own, an owner anybody's. A token with scopes makes only
            tokens with scopes among its own.
        user: whose token it is.
        name: what it is for, 1 to 100 characters.
        expires_days: 1 to 3650; None never expires.
        scopes: permission names it is limited to; empty means all its user's permissions.

    Returns:
        The row, and the plain token, which is kept nowhere.

    Raises:
        Invalid: a value is out of bounds.
        NotAllowed, NotAuthenticated: ``actor`` may not.
    """
    wanted = tuple(dict.fromkeys(scopes))
    _check_token(name, expires_days, wanted)
    _require_token_of(actor, user.pk)
    if actor.scopes and not (wanted and set(wanted) <= set(actor.scopes)):
        error = NotAllowed(
            "This token is limited; it can make only tokens with scopes among its own: "
            f"{', '.join(actor.scopes)}.",
            code="scope_exceeded",
        )
        refuse(error, actor=actor, permission=Permission.TOKENS_OWN, target_type="token")
    with transaction.atomic():
        token, plain = Token.objects.create(
            user=user,
            expiry=None if expires_days is None else timedelta(days=expires_days),
            name=name.strip(),
            scopes=list(wanted),
        )
        announce(
            actor=actor,
            event="token.created",
            category="token",
            target_type="token",
            target_id=token.public_id,
            after={
                "name": token.name,
                "user": user.get_username(),
                "scopes": token.scopes,
                "expires_at": token.expiry.isoformat() if token.expiry else None,
            },
        )
    return token, plain


def token_revoke(*, actor: Actor, public_id: str) -> None:
    """Delete a token; it stops working with the next request.

    Raises:
        NotFound: there is none with this id that ``actor`` may see.
        NotAllowed, NotAuthenticated: ``actor`` may not.
    """
    require(actor, Permission.TOKENS_OWN, target_type="token", target_id=public_id)
    with transaction.atomic():
        token = selectors.token_get(actor=actor, public_id=public_id)
        token.delete()
        announce(
            actor=actor,
            event="token.revoked",
            category="token",
            target_type="token",
            target_id=public_id,
            before={"name": token.name, "user": token.user.get_username()},
        )


def token_use(plain: str, *, source_address: str = "") -> Token:
    """Return the token that ``plain`` is, with its user, and note that it was used.

    Raises:
        NotAuthenticated: it is unknown, revoked or expired, or its user is inactive.
    """
    token = selectors.token_find(plain)
    if token is None:
        _bad_token(plain, source_address)
        raise NotAuthenticated(
            "This token is unknown, revoked or expired. Create one with `mh token create` or in "
            "the settings under Tokens.",
            code="invalid_token",
        )
    _note_use(token)
    return token


def token_is_fresh(token: Token) -> bool:
    """Return whether a token read a while ago has not expired since, and its use need not be noted again."""
    now = timezone.now()
    if token.expiry is not None and token.expiry <= now:
        return False
    return token.last_used_at is not None and token.last_used_at > now - LAST_USED_EVERY


def _note_use(token: Token) -> None:
    now = timezone.now()
    due = now - LAST_USED_EVERY
    if token.last_used_at is not None and token.last_used_at > due:
        return
    try:
        Token.objects.filter(
            Q(last_used_at__isnull=True) | Q(last_used_at__lte=due), pk=token.pk
        ).update(last_used_at=now)
    except DatabaseError:
        # A busy database is no reason to refuse a good token.
        logger.warning("Could not note the use of token %s", token.public_id, exc_info=True)


def _bad_token(plain: str, source_address: str) -> None:
    """Record a bad token, without it, and not once per request of somebody who hammers."""
    key = f"bad-token:{source_address}"
    if not cache.add(key, 1, timeout=_BAD_TOKEN_RECORD_SECONDS):
        return
    announce(
        actor=Actor(user=None, surface="rest", source_address=source_address),
        event="token.refused",
        category="authentication",
        outcome="refused",
        message=f"A bearer token of {len(plain)} characters is unknown, revoked or expired.",
    )


def _check_token(name: str, expires_days: int | None, scopes: tuple[str, ...]) -> None:
    if not 1 <= len(name.strip()) <= 100:  # noqa: PLR2004 - the column's length
        raise Invalid("Give the token a name of 1 to 100 characters.", param="name")
    if expires_days is not None and not 1 <= expires_days <= TOKEN_DAYS_MAX:
        raise Invalid(
            f"A token can live 1 to {TOKEN_DAYS_MAX} days, not {expires_days}.",
            param="expires_days",
        )
    unknown = sorted(set(scopes) - set(Permission))
    if unknown:
        raise Invalid(
            f"Unknown scope {', '.join(unknown)}. There are: {', '.join(Permission)}.",
            param="scopes",
        )


def _require_token_of(actor: Actor, user_id: int) -> None:
    own = actor.user is not None and actor.user.pk == user_id
    permission = Permission.TOKENS_OWN if own else Permission.USERS_MANAGE
    require(actor, permission, target_type="token")
