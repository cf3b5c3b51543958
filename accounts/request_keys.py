"""The ``Idempotency-Key`` header: a client's own name for a request that it may have to send again.

As in draft-ietf-httpapi-idempotency-key-header; the quotes of a structured field may be left out.
"""

import hashlib
import json
import re
from typing import Final

from rest_framework.request import Request

from accounts.actors import RequestKey
from accounts.errors import InvalidRequest

HEADER: Final = "Idempotency-Key"
_KEY: Final = re.compile(r'"[!#-\[\]-~]{1,255}"|[!#-\[\]-~]{1,255}')
#: Queries that say how to be answered, not what is asked.
_HOW: Final = ("wait",)


def request_key_of(request: Request) -> RequestKey | None:
    """Return the key a request brings, with a digest of what it asks; None where it brings none.

    Raises:
        InvalidRequest: the header is no key.
    """
    given = request.headers.get(HEADER)
    if given is None:
        return None
    if not _KEY.fullmatch(given.strip()):
        msg = f"{HEADER} must be 1 to 255 visible ASCII characters, without quotes and backslashes: a UUID."
        raise InvalidRequest(msg, code="invalid_idempotency_key", param=HEADER)
    return RequestKey(key=given.strip().strip('"'), digest=_digest(request))


def _digest(request: Request) -> str:
    query = sorted(item for item in request.query_params.items() if item[0] not in _HOW)
    asked = [request.method, request.path, query, request.data or None]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
