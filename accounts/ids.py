"""Ids that nobody else has. They are no secrets: who knows one may do nothing with it.

Python's own generator, which the kernel seeds (and seeds anew in a forked process): asking the kernel for each
lets go of the interpreter, and the event loop waits until another thread gives it back.
"""

import random
import uuid


def unique_hex(bits: int) -> str:
    """Return ``bits`` random bits, a multiple of 4, as that many quarters of hexadecimal digits."""
    return f"{random.getrandbits(bits):0{bits // 4}x}"


def unique_uuid() -> uuid.UUID:
    """Return a random UUID (RFC 9562, version 4)."""
    return uuid.UUID(int=random.getrandbits(128), version=4)
