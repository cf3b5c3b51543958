"""Embeddings, whoever makes them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from django.conf import settings

from router.providers.base import EmbeddingCall, Embeddings
from router.selectors import Resolved
from router.services.admission import Admitted, OpenAICall
from router.services.measuring import meter_of, sent


async def embed_admitted(admitted: Admitted[OpenAICall]) -> Embeddings:
    """Return a vector for each text of ``input``, a list.

    Raises:
        MhError: it could not be answered.
    """
    fields, waiting = admitted.asked.fields, admitted.waiting
    with meter_of(admitted) as meter:

        @asynccontextmanager
        async def send(found: Resolved) -> AsyncIterator[AsyncIterator[Embeddings]]:
            async def answer() -> AsyncIterator[Embeddings]:
                sent(meter, found)
                call = EmbeddingCall(
                    model=found.route.model,
                    texts=fields["input"],
                    dimensions=fields.get("dimensions"),
                    request_id=waiting.request_id,
                )
                yield await found.provider.embed(found.target, call)

            yield answer()

        async with AsyncExitStack() as stack:
            async for _ in waiting.until_open(stack, send, settings.MH_ANSWER_SECONDS):
                pass
            found: Embeddings = waiting.first
            meter.tokens(found.usage)
            meter.done()
            return found
