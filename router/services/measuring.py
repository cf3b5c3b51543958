"""What the services tell the usage of a request."""

import json
from collections.abc import Mapping
from typing import Any

from router.context import characters
from router.schemas import ChatRequest
from router.selectors import Resolved
from router.services.admission import Admitted, OpenAICall
from router.usage import Meter

_KINDS = {"/v1/completions": "completion", "/v1/embeddings": "embedding"}


def meter_of(admitted: Admitted[Any]) -> Meter:
    """Return a meter for a request that was let in."""
    asked = admitted.asked
    kind = "chat" if isinstance(asked, ChatRequest) else _KINDS.get(asked.path, "chat")
    return Meter(
        actor=admitted.actor, kind=kind, begin=admitted.begin, prompt=lambda: _characters(asked)
    )


def _characters(asked: ChatRequest | OpenAICall) -> int:
    """Return about how many characters of a request an engine reads."""
    if isinstance(asked, ChatRequest):
        return characters([message.given() for message in asked.messages])
    prompt = asked.fields.get("prompt")
    if prompt is None:
        return characters(asked.fields.get("messages") or ())
    return len(prompt if isinstance(prompt, str) else json.dumps(prompt))


def came(meter: Meter, piece: Mapping[str, Any]) -> None:
    """Say what came in a piece of an answer: an event."""
    text = piece.get("content")
    if text:
        meter.characters += len(text)


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
