"""The door: may they? If not, the refusal is recorded, whatever becomes of the request's transaction."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections, connection

from accounts.actors import Actor
from accounts.errors import MhError, NotAllowed, NotAuthenticated
from accounts.permissions import Permission, is_allowed
from audit.models import Category, Level, Outcome
from audit.services import event_record

#: Under this name an error carries the refusal that could not be recorded where it happened.
_PENDING = "audit_pending"


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
    error = _error(actor, permission)
    setattr(
        error,
        _PENDING,
        {
            "actor": actor,
            "event": "permission.refused",
            "category": Category.PERMISSION,
            "level": Level.WARNING,
            "outcome": Outcome.REFUSED,
            "target_type": target_type,
            "target_id": target_id,
            "message": error.message,
            "after": {"permission": permission.value},
        },
    )
    if not _in_transaction():
        settle(error)
    raise error


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
    await sync_to_async(_require_and_close)(
        actor,
        permission,
        target_type=target_type,
        target_id=target_id,
        backend_owner_id=backend_owner_id,
    )


def settle(error: BaseException) -> None:
    """Record the refusal ``error`` still carries, if it does. Call it outside of the transaction."""
    pending: dict[str, Any] | None = getattr(error, _PENDING, None)
    if pending is not None:
        delattr(error, _PENDING)
        event_record(**pending)


def _require_and_close(actor: Actor, permission: Permission, **target: Any) -> None:
    try:
        require(actor, permission, **target)
    finally:
        close_old_connections()


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


def _in_transaction() -> bool:
    """Whether a rollback could undo a record made now. The transaction a test runs in does not count."""
    blocks = connection.atomic_blocks
    return connection.in_atomic_block and not (blocks and blocks[-1]._from_testcase)  # noqa: SLF001
