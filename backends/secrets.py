"""Secret options at rest: a Fernet token over a JSON object (``cryptography``), keyed from the site's key."""

import base64
import json

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from backends.errors import InvalidOptions

_PURPOSE = b"mh backend secrets v1"


def _fernet() -> MultiFernet:
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_derived(str(key))) for key in keys])


def _derived(key: str) -> bytes:
    """Derive a Fernet key (RFC 5869)."""
    raw = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key.encode())
    return base64.urlsafe_b64encode(raw)


def seal(values: dict[str, str]) -> str:
    """Encrypt ``values``; no values give an empty string."""
    return _fernet().encrypt(json.dumps(values).encode()).decode() if values else ""


def unseal(token: str) -> dict[str, str]:
    """Decrypt what ``seal`` gave.

    Raises:
        InvalidOptions: the site's key is not the one the values were sealed with.
    """
    if not token:
        return {}
    try:
        values: dict[str, str] = json.loads(_fernet().decrypt(token.encode()))
    except InvalidToken as exc:
        msg = (
            "The stored secrets were encrypted with another MH_SECRET_KEY. Restore that key, or set "
            "the secret options again."
        )
        raise InvalidOptions(msg, code="secrets_unreadable") from exc
    return values
