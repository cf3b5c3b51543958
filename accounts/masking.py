"""Secrets, recognised by the name of their key and by what they look like, made unreadable."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

MASK: Final = "••••••"

_WORDS: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+")
_SECRET_WORDS: Final = frozenset(
    {
        "password", "passwd", "passphrase", "secret", "secrets", "authorization", "cookie",
        "cookies", "credential", "credentials", "apikey", "bearer", "sessionid", "csrftoken",
    }
)  # fmt: skip
#: A key is secret when it ends so: ``hf_token``, ``apiKey``; ``max_tokens`` and ``token_id`` are not.
_SECRET_ENDINGS: Final = (
    ("token",),
    ("api", "key"), ("api", "keys"), ("private", "key"), ("secret", "key"), ("access", "key"),
    ("signing", "key"), ("encryption", "key"),
)  # fmt: skip

_VALUES: Final = re.compile(
    r"""
      \bmh_[0-9a-f]{16,}                                  # ours
    | \bhf_[A-Za-z0-9]{16,}                               # Hugging Face
    | \bsk-[A-Za-z0-9_-]{16,}                             # OpenAI and those like it
    | \brpa_[A-Za-z0-9]{16,}                              # RunPod
    | \bgh[pousr]_[A-Za-z0-9]{20,}                        # GitHub
    | \bAKIA[0-9A-Z]{16}\b                                # AWS
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}                # JSON web token
    | (?<=[Bb]earer\ )[\w.~+/=-]{8,}
    | (?<=://)[^/\s:@]*:[^/\s@]+(?=@)                     # user and password of a URL
    | -----BEGIN[^-]*PRIVATE\ KEY-----.*?(?:-----END[^-]*-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)


def is_secret_key(key: str) -> bool:
    """Return whether a value under this name is a secret."""
    words = tuple(word.lower() for word in _WORDS.findall(key))
    if _SECRET_WORDS.intersection(words):
        return True
    return any(words[-len(ending) :] == ending for ending in _SECRET_ENDINGS)


def mask_text(text: str) -> str:
    """Return ``text`` with everything that looks like a secret made unreadable."""
    return _VALUES.sub(MASK, text)


def mask(value: Any) -> Any:
    """Return a copy of ``value`` (JSON-like) with its secrets made unreadable.

    An empty secret stays as it is, so that *set* is told from *not set*.
    """
    if isinstance(value, Mapping):
        return {key: _mask_item(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [mask(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def _mask_item(key: Any, item: Any) -> Any:
    if isinstance(key, str) and is_secret_key(key) and not _is_empty(item):
        return MASK
    return mask(item)


def _is_empty(item: Any) -> bool:
    return item is None or isinstance(item, bool) or item in ("", [], {})


def mask_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask a log line's values by their keys (a structlog processor)."""
    for key, value in event.items():
        if isinstance(value, str | Mapping) and not key.startswith("_"):
            event[key] = _mask_item(key, value)
    return event


def mask_line(_logger: Any, _method: str, line: str) -> str:
    """Mask what looks like a secret in a finished log line, its traceback included."""
    return mask_text(line)
