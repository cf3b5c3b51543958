"""How long a provider asks us to wait, in the headers of a refusal."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_NUMBER: Final = re.compile(r"\d{1,9}(?:\.\d{1,6})?")
#: Hugging Face's ``RateLimit: "api";r=0;t=55``; source: IETF draft-ietf-httpapi-ratelimit-headers.
_RATE_LIMIT: Final = re.compile(r";\s*r=(\d+)(?:[^,]*?);\s*t=(\d{1,9})")
#: OpenAI's ``6m0s``, ``1s``, ``120ms``.
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def wait_asked(headers: Mapping[str, str]) -> str:
    """Return the whole seconds to wait, as ``Retry-After`` has them; empty where nothing is asked.

    Reads ``retry-after-ms``, ``retry-after`` (seconds or a date), ``RateLimit`` and OpenAI's
    ``x-ratelimit-reset-*`` of a limit that is used up, in this order.
    """
    for found in (
        _milliseconds(headers.get("retry-after-ms", "")),
        _seconds_or_date(headers.get("retry-after", "")),
        _rate_limit(headers.get("ratelimit", "")),
        _resets(headers),
    ):
        if found is not None:
            return str(max(0, math.ceil(found)))
    return ""


def _milliseconds(text: str) -> float | None:
    return float(text) / 1000 if _NUMBER.fullmatch(text) else None


def _seconds_or_date(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None


def _rate_limit(text: str) -> float | None:
    waits = [float(match[2]) for match in _RATE_LIMIT.finditer(text) if match[1] == "0"]
    return max(waits, default=None)


def _resets(headers: Mapping[str, str]) -> float | None:
    waits = [
        sum(
            float(number) * _UNITS[unit]
            for number, unit in _SPAN.findall(headers.get(f"x-ratelimit-reset-{kind}", ""))
        )
        for kind in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{kind}") == "0"
    ]
    return max((wait for wait in waits if wait > 0), default=None)
