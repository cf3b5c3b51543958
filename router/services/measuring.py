"""What the services tell the usage of a request."""

from typing import Any

from router.schemas import ChatRequest
from router.selectors import Resolved
from router.services.admission import Admitted
from router.usage import Meter

_KINDS = {"/v1/completions": "completion", "/v1/embeddings": "embedding"}


def meter_of(admitted: Admitted[Any]) -> Meter:
    """Return a meter for a request that was let in."""
    asked = admitted.asked
    kind = "chat" if isinstance(asked, ChatRequest) else _KINDS.get(asked.path, "chat")
    return Meter(actor=admitted.actor, kind=kind, begin=admitted.begin)


def sent(meter: Meter, found: Resolved) -> None:
    """Say to whom the request goes now."""
    route = found.route
    meter.sent(
        provider=route.provider,
        backend=route.backend,
        model=route.model,
        entry=route.entry or "",
        role=route.role or "",
    )
