"""Embeddings, whoever makes them."""

from contextlib import AsyncExitStack

from router.providers.base import EmbeddingCall, Embeddings
from router.providers.registry import engine_provider
from router.services.admission import Admitted, OpenAICall


async def embed_admitted(admitted: Admitted[OpenAICall]) -> Embeddings:
    """Return a vector for each text of ``input``, a list.

    Raises:
        MhError: it could not be answered.
    """
    fields, waiting = admitted.asked.fields, admitted.waiting
    async with AsyncExitStack() as stack:
        async for _ in waiting.until_leased(stack):
            pass
        found = waiting.found
        call = EmbeddingCall(
            model=found.route.model,
            texts=fields["input"],
            dimensions=fields.get("dimensions"),
            request_id=waiting.request_id,
        )
        return await engine_provider(found.engine).embed(found.target, call)
