"""Give database connections back before something long, a stream of tokens for one."""

from django.db import connections


def release() -> None:
    """Close this thread's connections that are due, except inside a transaction.

    ``django.db.close_old_connections`` closes those too, and what was done in the transaction is lost.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
