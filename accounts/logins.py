"""Signing in by password: the limit on guessing, and the record of who came, failed and went."""

import hashlib
import time
from typing import Any, TypedDict

from django.contrib.auth import authenticate, login
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from accounts.actors import Actor
from accounts.errors import NotAuthenticated, TooMany
from accounts.models import User
from accounts.requests import current_request_id, source_address
from accounts.signals import announce

#: So many failures of one name from one address in one window, then no more tries until it ends.
FAILURES_MAX = 8
WINDOW_SECONDS = 300


class _Window(TypedDict):
    failures: int
    ends_at: float


class LoginThrottle:
    """Stands first among the authentication backends, so that the admin's form is limited as well.

    It is no ``BaseBackend``: a backend with ``get_user`` could be taken for the one that signed in.
    """

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, **_: Any
    ) -> None:
        """Refuse without looking at the password when too many tries failed."""
        if request is not None and username and seconds_locked(request, username) > 0:
            raise PermissionDenied

    async def aauthenticate(
        self, request: HttpRequest | None, username: str | None = None, **_: Any
    ) -> None:
        """Do the same for async code."""
        self.authenticate(request, username)


def login_by_password(request: HttpRequest, *, username: str, password: str) -> User:
    """Sign the request's session in.

    Raises:
        TooMany: too many tries with this name from this address failed.
        NotAuthenticated: the name or password is wrong, or the user inactive.
    """
    locked = seconds_locked(request, username)
    if locked > 0:
        raise TooMany(
            f"Too many failed logins. Try again in {locked} seconds.",
            code="too_many_logins",
            retry_after=locked,
        )
    user = authenticate(request, username=username, password=password)
    if not isinstance(user, User):
        raise NotAuthenticated("The user name or password is wrong.", code="invalid_credentials")
    login(request, user)
    return user


def seconds_locked(request: HttpRequest, username: str) -> int:
    """Return for how many seconds this name may not try from this address; 0 where it may."""
    window: _Window | None = cache.get(_key(request, username))
    if window is None or window["failures"] < FAILURES_MAX:
        return 0
    return max(0, round(window["ends_at"] - time.time()))


def connect() -> None:
    """Listen to Django's signals, which every way of signing in sends."""
    user_logged_in.connect(_signed_in, dispatch_uid="accounts.signed_in")
    user_logged_out.connect(_signed_out, dispatch_uid="accounts.signed_out")
    user_login_failed.connect(_failed, dispatch_uid="accounts.login_failed")


def _signed_in(*, request: HttpRequest | None, user: User, **_: Any) -> None:
    if request is not None:
        cache.delete(_key(request, user.get_username()))
    announce(
        actor=_actor(request, user),
        event="login.succeeded",
        category="authentication",
        target_type="user",
        target_id=user.get_username(),
    )


def _signed_out(*, request: HttpRequest | None, user: User | None, **_: Any) -> None:
    if user is None:
        return
    announce(
        actor=_actor(request, user),
        event="logout",
        category="authentication",
        target_type="user",
        target_id=user.get_username(),
    )


def _failed(*, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    username = str(credentials.get("username") or "")
    if request is not None and not _count_failure(request, username):
        return
    announce(
        actor=_actor(request, None),
        event="login.failed",
        category="authentication",
        outcome="failure",
        target_type="user",
        target_id=username[:128],
        message="The user name or password was wrong.",
    )


def _count_failure(request: HttpRequest, username: str) -> bool:
    """Count it; return whether it is to be recorded: tries made while locked are not."""
    key = _key(request, username)
    fresh = _Window(failures=0, ends_at=time.time() + WINDOW_SECONDS)
    window: _Window = cache.get(key) or fresh
    if window["failures"] >= FAILURES_MAX:
        return False
    window["failures"] += 1
    cache.set(key, window, timeout=max(1.0, window["ends_at"] - time.time()))
    return True


def _actor(request: HttpRequest | None, user: User | None) -> Actor:
    in_admin = request is not None and request.path_info.startswith("/admin/")
    return Actor(
        user=user,
        surface="admin" if in_admin else "rest",
        request_id=current_request_id(),
        source_address=source_address(request) if request is not None else "",
    )


def _key(request: HttpRequest, username: str) -> str:
    who = f"{source_address(request)}\n{username.casefold()}"
    return f"login:{hashlib.sha256(who.encode(errors='replace')).hexdigest()}"
