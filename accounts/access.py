"""The door: may they? If not, the refusal is recorded, whatever becomes of the request's transaction.

The other apps know it as ``audit.access``.
"""

from typing import Any

from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection

from accounts import database
from accounts.actors import Actor
from accounts.errors import MhError, NotAllowed, NotAuthenticated
from accounts.permissions import Permission, is_allowed
from accounts.signals import announce

#: Under this name an error carries the refusal that could not be recorded where it happened.
_PENDING = "refusal"
#: Somebody not signed in gets one record per address and target in this many seconds: the door
#: must not be a way for strangers to fill the disk.
_STRANGER_SECONDS = 10


def require(
    actor: Actor,
    permission: Permission,
    *,
    target_type: str = "",
    target_id: str = "",
    backend_owner_id: int | None = None,
) -> None:
    """Return if ``actor`` may; else record the refusal and raise.

    The site itself (``Actor.system()``) may do everything. Inside a transaction, which the error
    will roll back, the record is left to ``settle``, which every surface calls.

    Raises:
        NotAuthenticated: nobody is signed in.
        NotAllowed: they may not.
    """
    if actor.is_system or is_allowed(
        actor.user, permission, scopes=actor.scopes, backend_owner_id=backend_owner_id
    ):
        return
    database.reading()
    error = _error(actor, permission)
    refuse(error, actor=actor, permission=permission, target_type=target_type, target_id=target_id)


async def arequire(
    actor: Actor,
    permission: Permission,
    *,
    target_type: str = "",
    target_id: str = "",
    backend_owner_id: int | None = None,
) -> None:
    """Do what ``require`` does, from async code; who may is known without leaving the event loop."""
    if actor.is_system or is_allowed(
        actor.user, permission, scopes=actor.scopes, backend_owner_id=backend_owner_id
    ):
        return
    error = _error(actor, permission)
    await sync_to_async(_refuse_and_close)(
        error, actor=actor, permission=permission, target_type=target_type, target_id=target_id
    )


def refuse(
    error: MhError,
    *,
    actor: Actor,
    permission: Permission,
    target_type: str = "",
    target_id: str = "",
) -> None:
    """Record that ``actor`` was refused, with ``error``'s sentence, and raise it."""
    if actor.user is not None or _first_of_stranger(actor, target_type, target_id):
        pending = {
            "actor": actor,
            "event": "permission.refused",
            "category": "permission",
            "outcome": "refused",
            "target_type": target_type,
            "target_id": target_id,
            "message": error.message,
            "after": {"permission": permission.value},
        }
        setattr(error, _PENDING, pending)
        if not _in_transaction():
            settle(error)
    raise error


def settle(error: BaseException) -> None:
    """Record the refusal ``error`` still carries, if it does. Call it outside of the transaction."""
    pending: dict[str, Any] | None = getattr(error, _PENDING, None)
    if pending is not None:
        delattr(error, _PENDING)
        announce(**pending)


def _refuse_and_close(error: MhError, **refusal: Any) -> None:
    try:
        refuse(error, **refusal)
    finally:
        database.release()


def _error(actor: Actor, permission: Permission) -> MhError:
    if actor.user is None:
        return NotAuthenticated("Sign in, or send a bearer token.")
    if actor.scopes and permission not in actor.scopes:
        return NotAllowed(
            f"This token is limited to {', '.join(actor.scopes)}; this needs {permission}.",
            code="scope_missing",
        )
    return NotAllowed(
        f"{actor.name} ({actor.user.role}) may not do this: it needs the permission {permission}."
    )


def _first_of_stranger(actor: Actor, target_type: str, target_id: str) -> bool:
    key = f"refused:{hash((actor.source_address, actor.surface, target_type, target_id))}"
    return bool(cache.add(key, 1, timeout=_STRANGER_SECONDS))


def _in_transaction() -> bool:
    """Whether a rollback could undo a record made now. The transaction a test runs in does not count."""
    blocks = connection.atomic_blocks
    in_test = bool(blocks) and getattr(blocks[-1], "_from_testcase", False)
    return connection.in_atomic_block and not in_test
