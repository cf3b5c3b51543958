"""``/ws/chat/``: several chats at once on one socket, each under the client's own id."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, ClassVar, Final

from accounts.actors import Actor
from accounts.errors import InvalidRequest, MhError, NotFound, TooMany
from accounts.permissions import Permission
from accounts.websockets import SocketConsumer
from router import services
from router.errors import DuplicateChat
from router.events import ChatEvent, DoneEvent, ErrorEvent, Timings
from router.providers.openai_stream import broken_off
from router.schemas import ChatRequest, parse
from router.streams import internal_error

logger = logging.getLogger(__name__)

#: Chats at once on one socket.
CHATS_MAX: Final = 32
#: Seconds a client may take to accept one frame, at least; then it is taken for gone.
SEND_TIMEOUT: Final = 60.0
_ID_MAX = 128
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
#: What the frames begin with that are only text, up to the text.
_TEXT_HEADS: Final[Mapping[str, str]] = {
    kind: f'{{"type":"{kind}","content":' for kind in ("token", "reasoning")
}


class ChatConsumer(SocketConsumer):
    """A person's or program's chats. Each is a task; all end with the socket."""

    permission: ClassVar[Permission] = Permission.CHAT

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._chats: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._count = 0
        #: What waits for the client to take it, and since when (the loop's time).
        self._sending: dict[str, float] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run until the socket is gone. Servers may cancel this without a disconnect message."""
        self._send_raw = scope.get("mh.send", send)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel_all()
            if self._patience is not None:
                self._patience.cancel()

    async def received(self, frame: dict[str, Any]) -> None:
        """Handle a ``chat``, ``cancel`` or ``ping`` frame."""
        kinds: dict[object, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "chat": self._chat,
            "cancel": self._cancel,
            "ping": self._ping,
        }
        kind = frame.get("type")
        handler = kinds.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise InvalidRequest(
                f"Unknown frame type {str(kind)[:40]!r}. Send chat, cancel or ping.",
                code="unknown_type",
                param="type",
            )
        await handler(frame)

    async def closed(self) -> None:
        """Stop every chat."""
        chats = list(self._chats.values())
        self._cancel_all()
        await asyncio.gather(*chats, return_exceptions=True)

    async def _chat(self, frame: dict[str, Any]) -> None:
        chat_id = _id_of(frame)
        if chat_id in self._chats:
            raise DuplicateChat(
                "A chat with this id is running. Give each chat an id of its own.", param="id"
            )
        if len(self._chats) >= CHATS_MAX:
            raise TooMany(f"{CHATS_MAX} chats are running on this socket. Wait for one to end.")
        request = parse(ChatRequest, {k: v for k, v in frame.items() if k not in {"type", "id"}})
        self._count += 1
        actor = replace(self.actor, request_id=f"{self.actor.request_id}.{self._count}")
        task = asyncio.create_task(self._run(chat_id, actor, request))
        self._chats[chat_id] = task
        task.add_done_callback(lambda _: self._forget(chat_id, task))

    async def _cancel(self, frame: dict[str, Any]) -> None:
        chat_id = _id_of(frame)
        chat = self._chats.get(chat_id)
        if chat is None:
            raise NotFound("No chat with this id is running.", code="chat_not_found", param="id")
        self._cancelled.add(chat_id)
        chat.cancel()

    async def _ping(self, frame: dict[str, Any]) -> None:
        """Give a sign of life: a line that is dead looks like one on which nobody speaks."""
        del frame
        await self.send_json({"type": "pong"})

    async def _run(self, chat_id: str, actor: Actor, request: ChatRequest) -> None:
        begin = time.perf_counter()
        # A frame of text is written out: in front of it, the text, and this.
        rest = f',"id":{_quoted(chat_id)}}}'
        try:
            async with aclosing(services.chat(actor=actor, request=request)) as events:
                async for event in events:
                    head = _TEXT_HEADS.get(event["type"])
                    if head is None:
                        text = _encode({**event, "id": chat_id})
                    else:
                        text = f"{head}{_quoted(event['content'])}{rest}"  # type: ignore[typeddict-item]
                    await self._send_text(chat_id, text)
        except asyncio.CancelledError:
            # A socket that is going away hears nothing more.
            if chat_id in self._cancelled:
                await self._send(chat_id, _cancelled(begin))
            elif chat_id in self._chats:
                await self._fail(chat_id, broken_off(), actor)
            raise
        except MhError as exc:
            await self._fail(chat_id, exc, actor)
        except Exception:  # the boundary of a task: the client must hear of it
            logger.exception("A chat failed")
            await self._fail(chat_id, internal_error(), actor)

    async def _send(self, chat_id: str, event: ChatEvent) -> None:
        await self._send_text(chat_id, _encode({**event, "id": chat_id}))

    async def _send_text(self, chat_id: str, text: str) -> None:
        """Send a frame; one timer watches all that are sent, for one each would cost more than the frame."""
        self._sending[chat_id] = self._loop.time()
        if self._patience is None:
            self._patience = self._loop.call_later(SEND_TIMEOUT / 2, self._look)
        try:
            await self._send_raw({"type": "websocket.send", "text": text})
        finally:
            self._sending.pop(chat_id, None)

    def _look(self) -> None:
        """Give the client up if it has not taken a frame for long."""
        self._patience = None
        if not self._sending:
            return
        if min(self._sending.values()) > self._loop.time() - SEND_TIMEOUT:
            self._patience = self._loop.call_later(SEND_TIMEOUT / 2, self._look)
            return
        logger.warning("A chat client did not take its frames; its socket is closed")
        self._cancel_all()
        self._dropping = self._loop.create_task(self._drop())

    async def _fail(self, chat_id: str, error: MhError, actor: Actor) -> None:
        body = error.body(actor.request_id)
        await self._send(chat_id, ErrorEvent(type="error", error=body))

    async def _drop(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self.close()

    def _forget(self, chat_id: str, task: "asyncio.Task[None]") -> None:
        if self._chats.get(chat_id) is task:
            del self._chats[chat_id]
            self._cancelled.discard(chat_id)
        if not task.cancelled() and (error := task.exception()):
            logger.debug("A chat's socket was gone: %s", type(error).__name__)

    def _cancel_all(self) -> None:
        chats = list(self._chats.values())
        self._chats.clear()
        self._cancelled.clear()
        for chat in chats:
            chat.cancel()


def _id_of(frame: Mapping[str, Any]) -> str:
    chat_id = frame.get("id")
    if not isinstance(chat_id, str) or not 0 < len(chat_id) <= _ID_MAX:
        raise InvalidRequest(
            f"Give the chat an id: a text of 1 to {_ID_MAX} characters.",
            code="missing_field" if chat_id is None else None,
            param="id",
        )
    return chat_id


def _cancelled(begin: float) -> DoneEvent:
    total = round((time.perf_counter() - begin) * 1000, 1)
    timings = Timings(queued_ms=None, ttft_ms=None, total_ms=total)
    return DoneEvent(type="done", finish_reason="cancelled", usage=None, timings=timings)
