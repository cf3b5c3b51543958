"""Texts that JSON can write and no encoding can: halves of surrogate pairs, which nothing behind us would take."""

import json
import re
from typing import Final

from accounts.errors import InvalidRequest

#: A surrogate as JSON escapes it; two together are a character, and common.
_ESCAPED: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPED_BYTES: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def halves_check(written: str | bytes, value: object) -> None:
    """Return where every text in ``value`` is one.

    Args:
        written: the JSON it was read from: nearly always this alone says that there is nothing to look for.
        value: what it holds.

    Raises:
        InvalidRequest: there is half of a surrogate pair in it.
    """
    found = (
        _ESCAPED_BYTES.search(written) if isinstance(written, bytes) else _ESCAPED.search(written)
    )
    if found is None:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as exc:
        msg = r"A text holds half of a surrogate pair (\ud800 to \udfff), which is no character. Leave it out."
        raise InvalidRequest(msg, code="invalid_text") from exc
