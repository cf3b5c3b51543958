"""What to tell people when a service that settings name does not answer: PostgreSQL, or a Redis or Valkey server."""

from typing import Final

import redis
from django.conf import settings
from django.db import OperationalError, connection

from accounts.errors import MhError, Unavailable

#: Seconds a server of messages may take to answer at start.
_PATIENCE: Final = 5.0


def services_check() -> None:
    """Return where the services that ``DATABASE_URL`` and ``REDIS_URL`` name answer.

    Raises:
        Unavailable: one does not.
    """
    try:
        connection.ensure_connection()
        if not settings.MH_REDIS_EMBEDDED:
            _broker_check()
    except (OperationalError, redis.RedisError) as exc:
        if told := outage(exc):
            raise told from exc
        raise


def outage(exc: Exception) -> MhError | None:
    """Return what ``exc`` says of a service that is away, as a sentence with what to do; None if it does not."""
    if isinstance(exc, OperationalError) and connection.vendor == "postgresql":
        return Unavailable(
            f"The database that DATABASE_URL names does not answer ({_first_line(exc)}). "
            "Start it, or mend DATABASE_URL."
        )
    if isinstance(exc, redis.RedisError) and not settings.MH_REDIS_EMBEDDED:
        return Unavailable(
            f"The server that REDIS_URL names does not answer ({_first_line(exc)}). "
            "Start it, or mend REDIS_URL."
        )
    return None


def _broker_check() -> None:
    with redis.Redis.from_url(
        settings.REDIS_URL, socket_connect_timeout=_PATIENCE, socket_timeout=_PATIENCE
    ) as client:
        client.ping()


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")
