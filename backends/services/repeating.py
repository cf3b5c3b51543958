"""Requests sent again under the same ``Idempotency-Key``: they get the operation that the first one made."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from django.db import IntegrityError

from accounts.actors import Actor
from backends import selectors
from backends.errors import KeyReused
from backends.models import IdempotencyKey, Operation

#: How long a key names its operation; after that it is free again.
KEPT: Final = timedelta(hours=24)


def operation_once(*, actor: Actor, ask: Callable[[], Operation]) -> Operation:
    """Return what ``ask`` returns, or the operation an earlier request with the actor's key made.

    Of requests that come at once one makes it, and the others get the same.

    Raises:
        KeyReused: the earlier request asked something else.
        As ``ask``.
    """
    try:
        return operation_repeated(actor) or ask()
    except IntegrityError:
        made = operation_repeated(actor)  # by one that came at the same time; ours was rolled back
        if made is None:
            raise
        return made


def operation_repeated(actor: Actor) -> Operation | None:
    """Return the operation that an earlier request with the actor's key made, if there is one.

    Raises:
        KeyReused: it asked something else.
    """
    if actor.request_key is None or actor.user is None:
        return None
    found = (
        IdempotencyKey.objects.select_related("operation")
        .filter(user=actor.user, key=actor.request_key.key)
        .filter(created_at__gt=selectors.now() - KEPT)
        .first()
    )
    if found is None:
        return None
    if found.digest != actor.request_key.digest:
        msg = (
            "This Idempotency-Key was sent with another request before. Send a new key, or what was "
            f"asked then: it made operation {found.operation_id}."
        )
        raise KeyReused(msg, param="Idempotency-Key")
    return found.operation


def key_keep(actor: Actor, row: Operation) -> None:
    """Keep the actor's key, if they have one, as a name of ``row``; in the transaction that makes ``row``.

    Raises:
        IntegrityError: a request with the same key came first; ``operation_once`` knows what to do.
    """
    if actor.request_key is None or actor.user is None:
        return
    now = selectors.now()
    IdempotencyKey.objects.filter(created_at__lte=now - KEPT).delete()
    IdempotencyKey.objects.create(
        user=actor.user,
        key=actor.request_key.key,
        digest=actor.request_key.digest,
        operation=row,
        created_at=now,
    )
