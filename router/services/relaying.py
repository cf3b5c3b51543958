"""OpenAI's API, passed on with as little change as can be; translated where the provider has another."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Protocol

from django.conf import settings

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from router import selectors
from router.embedding_translation import embedding_answer, embedding_call
from router.errors import ContextTooLong
from router.holding import Send
from router.openai_translation import CHAT_PATH, chat_call, translated, translated_whole
from router.providers.frames import Frames, Take
from router.providers.openai_compatible import EMBEDDINGS_PATH, encode
from router.selectors import ModelCard, Resolved
from router.services.admission import Admitted, OpenAICall
from router.services.fitting import explained, fitted, is_fitted, relay_fitted
from router.services.measuring import meter_of, sent
from router.shaping import chat_shaped, shape_of
from router.usage import Meter, Tail, usage_in


class Write(Protocol):
    """Sends a piece to the client at once."""

    def __call__(self, piece: bytes, is_last: bool = False) -> bool:
        """Return False where the client shall get no more until there is room."""


#: How a stream's last block ends.
_DONE = (b"[DONE]\n\n", b"[DONE]\r\n\r\n")


async def relay(
    admitted: Admitted[OpenAICall], write: Write | None = None
) -> AsyncGenerator[bytes, None]:
    """Pass a streamed request on; yield the engine's frames, ``[DONE]`` included.

    Closing it stops the generation. Iterate in one task.

    Args:
        write: gets what comes after the first frames, where that saves a detour over this generator. When
            it returns False, ``b""`` is yielded, and it is not called again before the next is asked for.

    Raises:
        MhError: at any time. Before the first frame nothing has been generated.
    """
    waiting, tail = admitted.waiting, Tail(admitted.asked.fields)
    with meter_of(admitted) as meter:
        passed = _Passed(meter, tail)
        async with AsyncExitStack() as stack:
            stack.callback(lambda: meter.tokens(tail.usage))
            await _opened(
                stack, _sender(admitted, meter, tail), admitted, settings.MH_FIRST_TOKEN_SECONDS
            )
            meter.piece()
            if first := passed.look(waiting.first):
                yield first
            rest = waiting.rest
            if write is not None and isinstance(rest, Frames):
                while await rest.pour(passed.on_to(write), plain=passed.counted(write)):
                    yield b""
            else:
                async for frame in rest:
                    if piece := passed.count(frame):
                        yield piece
            meter.done()


class _Passed:
    """What goes by on its way to the client: counted, and its usage kept."""

    def __init__(self, meter: Meter, tail: Tail) -> None:
        self._meter = meter
        self._tail = tail
        self._is_done = False

    def look(self, frame: bytes) -> bytes:
        """Return what of ``frame`` the client gets."""
        passed = self._tail.feed(frame)
        if passed.endswith(_DONE):
            # Now: a client that has seen it may leave at once.
            self._meter.tokens(self._tail.usage)
            self._meter.done()
            self._is_done = True
        return passed

    def count(self, frame: bytes) -> bytes:
        """Do the same, and count the pieces in it."""
        # A line of data and an empty one each: good enough for what nobody has counted, and looked for at once.
        self._meter.pieces += frame.count(b"\n") // 2 or 1
        return self.look(frame)

    def on_to(self, write: Write) -> Take:
        """Return what counts a frame and writes it."""
        return lambda frame: not (piece := self.count(frame)) or write(piece, self._is_done)

    def counted(self, write: Write) -> Take:
        """Return what writes a frame that is one piece, in which there is nothing to see."""

        def take(frame: bytes) -> bool:
            self._meter.pieces += 1
            return write(frame)

        return take


def _sender(admitted: Admitted[OpenAICall], meter: Meter, tail: Tail) -> Send:
    """Return what sends a streamed request to one of those who can answer it."""
    call, request_id = admitted.asked, admitted.waiting.request_id

    def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        sent(meter, found)
        if _is_translated(found, call):
            return _translated(found, call, request_id, whole=False)
        if is_fitted(found, call):
            return relay_fitted(found, call, tail.ask, request_id)
        body = tail.ask(call.for_route(found))
        return found.provider.relay(found.target, call.path, body, request_id)

    return send


async def relay_complete(admitted: Admitted[OpenAICall]) -> bytes:
    """Pass a request on that is not streamed; return the engine's answer.

    Raises:
        MhError: it could not be answered.
    """
    call, waiting = admitted.asked, admitted.waiting
    with meter_of(admitted) as meter:

        @asynccontextmanager
        async def ask(found: Resolved) -> AsyncIterator[AsyncIterator[bytes]]:
            async def answer() -> AsyncIterator[bytes]:
                yield await _answer(found, call, waiting.request_id)

            yield answer()

        def send(found: Resolved) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
            sent(meter, found)
            if _is_translated(found, call):
                return _translated(found, call, waiting.request_id, whole=True)
            return ask(found)

        async with AsyncExitStack() as stack:
            await _opened(stack, send, admitted, settings.MH_ANSWER_SECONDS)
            answer: bytes = waiting.first
            meter.tokens(usage_in(answer))
            meter.done()
            return answer


async def _opened(
    stack: AsyncExitStack, send: Send, admitted: Admitted[OpenAICall], patience: float
) -> None:
    """Have somebody answer. Meanwhile a comment every few seconds says that it waits."""
    waiting = admitted.waiting
    try:
        async for _ in waiting.until_open(stack, send, patience):
            pass
    except ContextTooLong as exc:
        raise await explained(exc, waiting.found, admitted.asked, waiting.request_id) from exc


async def _answer(found: Resolved, call: OpenAICall, request_id: str) -> bytes:
    provider = found.provider
    call = await fitted(found, call, request_id)
    if call.path in provider.capabilities_of(found.target).openai_paths:
        return await provider.ask(found.target, call.path, call.for_route(found), request_id)
    if call.path == EMBEDDINGS_PATH:
        wanted = embedding_call(call.fields, found.route.model, request_id)
        embeddings = await provider.embed(found.target, wanted)
        return encode(embedding_answer(embeddings, wanted, call.fields.get("encoding_format")))
    raise provider.unsupported(call.path)


def _is_translated(found: Resolved, call: OpenAICall) -> bool:
    paths = found.provider.capabilities_of(found.target).openai_paths
    return call.path == CHAT_PATH and CHAT_PATH not in paths


@asynccontextmanager
async def _translated(
    found: Resolved, call: OpenAICall, request_id: str, *, whole: bool
) -> AsyncIterator[AsyncIterator[Any]]:
    """Send it as a chat; give frames, or the whole answer as one, and ``Waits`` before them."""
    # What was counted is taken out again by ``Tail`` where nobody asked for it.
    fields = {**call.fields, "stream_options": {"include_usage": True}}
    asked = chat_call(
        call.fields, model=found.route.model, options=found.route.options, request_id=request_id
    )
    async with chat_shaped(found.provider, found.target, asked, shape_of(found.route)) as deltas:
        frames = translated_whole(deltas, asked) if whole else translated(deltas, asked, fields)
        async with aclosing(frames):
            yield frames


async def models_list(*, actor: Actor) -> list[ModelCard]:
    """Return every name ``actor`` may use as ``model``.

    Raises:
        NotAuthenticated, NotAllowed: they may not chat.
    """
    return await database.in_database(_models, actor)


def _models(actor: Actor) -> list[ModelCard]:
    require(actor, Permission.CHAT, target_type="path", target_id="/v1/models")
    return selectors.model_cards(actor.user)
