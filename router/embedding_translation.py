"""OpenAI's embeddings, for providers that embed by a protocol of their own. Pure."""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from accounts.errors import InvalidRequest
from router.errors import UpstreamGarbled
from router.providers.base import EmbeddingCall, Embeddings


def embedding_call(fields: Mapping[str, Any], model: str, request_id: str) -> EmbeddingCall:
    """Return what ``POST /v1/embeddings`` asks for, in terms no provider owns.

    Raises:
        InvalidRequest: it gives numbers of tokens, which only the engine that made them understands.
    """
    given = fields["input"]
    texts = [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(
            "The model that answers takes texts, not numbers of tokens. Send texts as input.",
            param="input",
        )
    return EmbeddingCall(
        model=model, texts=texts, dimensions=fields.get("dimensions"), request_id=request_id
    )


def embedding_answer(
    found: Embeddings, call: EmbeddingCall, encoding: str | None
) -> dict[str, Any]:
    """Return OpenAI's answer: vectors as numbers, or as base64 of 32-bit little-endian floats.

    Raises:
        UpstreamGarbled: there are not as many vectors as texts.
    """
    if len(found.vectors) != len(call.texts):
        raise UpstreamGarbled("The engine sent an answer that cannot be read.")
    usage = found.usage
    tokens = usage["prompt_tokens"] if usage else 0
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
            for index, vector in enumerate(found.vectors)
        ],
        "model": call.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Sequence[float], encoding: str | None) -> Sequence[float] | str:
    if encoding != "base64":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
