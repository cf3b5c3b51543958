"""Requests in flight, as operations see them: how many there are, and the gate that keeps new ones out.

A gate that holds makes new requests wait, one that is closed refuses them; cutting ends those still running.
Who answers requests takes the leases themselves (``backends.request_leases``).
"""

import contextlib
import time
from typing import Final

import redis

from backends import bus

#: Seconds a gate stays closed unless the operation that closed it renews it.
GATE_SECONDS: Final = 30
HELD: Final = "held"
_CLOSED: Final = "closed"
#: Counts up whenever requests that wait should look again.
CHANGES: Final = "mh:gates"
#: The channel on which it is said that a gate has closed, requests are cut, or something else serves.
NEWS: Final = "mh:gates:news"


#: KEYS: gate, leases. ARGV: now, seconds, channel. Returns 1 when nobody held a lease, and new ones wait now.
_HOLD_IF_IDLE = """
if redis.call('ZCOUNT', KEYS[2], ARGV[1], '+inf') > 0 then return 0 end
redis.call('SET', KEYS[1], 'held', 'EX', ARGV[2])
redis.call('PUBLISH', ARGV[3], 'held')
return 1
"""
#: KEYS: gate. ARGV: what it says, seconds, channel. What is only renewed is no news.
_SET_GATE = """
local before = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
if before ~= ARGV[1] then redis.call('PUBLISH', ARGV[3], ARGV[1]) end
"""


def leases_key(backend: str) -> str:
    """Return the key of the sorted set of leases on ``backend``, by when they expire, in seconds since 1970."""
    return f"mh:leases:{backend}"


def gate_key(backend: str) -> str:
    """Return the key of what the gate of ``backend`` says; not there while it is open."""
    return f"mh:gate:{backend}"


def cut_key(backend: str) -> str:
    """Return the key that is there while requests to ``backend`` are to end."""
    return f"mh:cut:{backend}"


def serving_key(backend: str) -> str:
    """Return the key of the token of what serves on ``backend``."""
    return f"mh:serving:{backend}"


def used_key(backend: str) -> str:
    """Return the key of when the last request to ``backend`` began."""
    return f"{leases_key(backend)}:used"


def in_flight(backend: str) -> int:
    """Return how many requests are in flight to ``backend``; 0 when the broker is away."""
    try:
        return bus.redis_client().zcount(leases_key(backend), time.time(), "+inf")
    except redis.RedisError:
        return 0


def gate_hold(backend: str) -> None:
    """Have new requests for ``backend`` wait, for the next ``GATE_SECONDS`` (renew by calling again)."""
    _gate_set(backend, HELD)


def gate_close(backend: str) -> None:
    """Refuse new leases on ``backend`` for the next ``GATE_SECONDS`` (renew by calling again)."""
    _gate_set(backend, _CLOSED)


def _gate_set(backend: str, word: str) -> None:
    with contextlib.suppress(redis.RedisError):
        bus.redis_client().eval(_SET_GATE, 1, gate_key(backend), word, str(GATE_SECONDS), NEWS)


def gate_hold_if_idle(backend: str) -> bool:
    """Have new requests wait unless a request is in flight, in one move; False when one is, or nobody can tell."""
    keys = [gate_key(backend), leases_key(backend)]
    try:
        return bool(
            bus.redis_client().eval(
                _HOLD_IF_IDLE, 2, *keys, str(time.time()), str(GATE_SECONDS), NEWS
            )
        )
    except redis.RedisError:
        return False


def last_used(backend: str) -> float | None:
    """Return when the last request to ``backend`` began, in seconds since 1970; None: never, as far as known.

    Raises:
        redis.RedisError: the broker does not answer, so nothing is known.
    """
    found = bus.redis_client().get(used_key(backend))
    return float(str(found)) if found else None


def gate_open(backend: str) -> None:
    """Grant leases on ``backend`` again, and stop cutting; who waits looks again."""
    with contextlib.suppress(redis.RedisError), bus.redis_client().pipeline() as pipe:
        pipe.delete(gate_key(backend), cut_key(backend))
        pipe.incr(CHANGES)
        pipe.execute()


def serving_set(backend: str, token: str) -> None:
    """Say what serves on ``backend`` now, ``""`` for nothing: leases for anything else are refused."""
    with contextlib.suppress(redis.RedisError), bus.redis_client().pipeline() as pipe:
        pipe.set(serving_key(backend), token or "-")
        pipe.incr(CHANGES)
        pipe.publish(NEWS, "serving")
        pipe.execute()


def cut(backend: str) -> None:
    """End every request in flight to ``backend``: its holder gets an error within ``RENEW_SECONDS``."""
    with contextlib.suppress(redis.RedisError), bus.redis_client().pipeline() as pipe:
        pipe.set(cut_key(backend), "cut", ex=GATE_SECONDS)
        pipe.publish(NEWS, "cut")
        pipe.execute()
