"""Streams taken by clients that cost little, over HTTP or a websocket: they count tokens, and note the first.

A client keeps its connection, and sends its next request when an answer is complete. In the beginning the
clients come one after the other, spread over the time of one stream, as people do.
"""

import asyncio
import base64
import json
import os
import struct
import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

from benchmarks.engine import MODEL, TOKEN

TOKENS = 64
_TOKEN = TOKEN.encode()
PATIENCE = 120.0


@dataclass
class Taken:
    """What came."""

    requests: int = 0
    seconds: float = 0.0
    first_token_seconds: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.requests * TOKENS

    def first_ms(self, percent: int) -> float:
        """A percentile of the time to the first token, in milliseconds."""
        if len(self.first_token_seconds) == 1:
            return self.first_token_seconds[0] * 1e3
        return quantiles(self.first_token_seconds, n=100, method="inclusive")[percent - 1] * 1e3


class BadAnswerError(Exception):
    """What came is not what should; nothing that follows would mean anything."""


class Client(asyncio.Protocol):
    """One connection. A subclass says what is sent, and what ends an answer."""

    end: bytes

    def __init__(self) -> None:
        self._buffer = b""
        self._count = 0
        self._sent = self._first = 0.0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(BadAnswerError(f"the connection broke: {exc}"))

    def data_received(self, data: bytes) -> None:
        # What a cut may have left of a token or of the end is looked at again.
        buffer = self._buffer + data
        found = buffer.count(_TOKEN)
        if found:
            if not self._count:
                self._first = time.perf_counter()
            self._count += found
        elif not self._count and self.is_refusal(buffer):
            self._fail(buffer)
            return
        if buffer.endswith(self.end) and self.is_over(buffer):
            self._buffer = b""
            if not self._done.done():
                self._done.set_result(None)
            return
        self._buffer = self.rest(buffer) if found else buffer[-4096:]

    def rest(self, buffer: bytes) -> bytes:
        """Return what is looked at again: no whole token is in it."""
        return buffer[buffer.rfind(_TOKEN) + len(_TOKEN) :][-256:]

    def is_refusal(self, buffer: bytes) -> bool:
        raise NotImplementedError

    def is_over(self, buffer: bytes) -> bool:
        raise NotImplementedError

    def request(self) -> bytes:
        raise NotImplementedError

    def _fail(self, buffer: bytes) -> None:
        if not self._done.done():
            self._done.set_exception(BadAnswerError(f"refused: {buffer[:600]!r}"))

    async def take(self) -> float:
        """Take one stream; return the seconds to its first token."""
        self._done = asyncio.get_running_loop().create_future()
        self._count = 0
        self._sent = time.perf_counter()
        self._transport.write(self.request())
        async with asyncio.timeout(PATIENCE):
            await self._done
        if self._count != TOKENS:
            raise BadAnswerError(f"{self._count} tokens came, not {TOKENS}")
        return self._first - self._sent

    async def open(self) -> None:
        """Do what comes before the first request."""

    def close(self) -> None:
        self._transport.close()


class HttpClient(Client):
    """``POST /v1/chat/completions``, streamed."""

    end = b"0\r\n\r\n"

    def __init__(self, host: str, token: str, prompt: str) -> None:
        super().__init__()
        body = json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": prompt}],
                "stream": True,
                "max_tokens": TOKENS,
            }
        ).encode()
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: {host}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Authorization: Bearer {token}"] if token else []),
        ]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def request(self) -> bytes:
        return self._request

    def is_refusal(self, buffer: bytes) -> bool:
        return buffer.startswith(b"HTTP/1.1 ") and not buffer.startswith(b"HTTP/1.1 200")

    def is_over(self, buffer: bytes) -> bool:
        return self._count >= TOKENS or b"[DONE]" in buffer


class SocketClient(Client):
    """``chat`` frames over ``/ws/chat/``, one chat at a time."""

    end = b"}"

    def __init__(self, host: str, token: str, prompt: str) -> None:
        super().__init__()
        self._host, self._token = host, token
        self._number = 0
        self._prompt = prompt

    async def open(self) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._done = asyncio.get_running_loop().create_future()
        self._count = TOKENS
        self._opening = True
        self._transport.write(
            (
                f"GET /ws/chat/ HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Authorization: Bearer {self._token}\r\n\r\n"
            ).encode()
        )
        await asyncio.wait_for(self._done, PATIENCE)
        self._opening = False

    def data_received(self, data: bytes) -> None:
        if self._opening:
            self._buffer += data
            if b"\r\n\r\n" in self._buffer and not self._done.done():
                if b" 101 " not in self._buffer[:20]:
                    self._fail(self._buffer)
                self._buffer = b""
                if not self._done.done():
                    self._done.set_result(None)
            return
        super().data_received(data)

    def request(self) -> bytes:
        self._number += 1
        frame = {
            "type": "chat",
            "id": f"chat-{self._number}",
            "model": MODEL,
            "messages": [{"role": "user", "content": self._prompt}],
            "options": {"maxTokens": TOKENS},
        }
        return text_frame(json.dumps(frame))

    def is_refusal(self, buffer: bytes) -> bool:
        return b'"type":"error"' in buffer

    def is_over(self, buffer: bytes) -> bool:
        return b'"type":"done"' in buffer


def text_frame(text: str) -> bytes:
    """Return a client's text frame (RFC 6455, 5.2), masked with zeros."""
    data = text.encode()
    length = len(data)
    if length < 126:
        head = struct.pack("!BB", 0x81, 0x80 | length)
    elif length < 65536:
        head = struct.pack("!BBH", 0x81, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
    return head + b"\0\0\0\0" + data


async def flow(
    url: str,
    *,
    at_once: int,
    requests: int,
    kind: type[HttpClient] | type[SocketClient] = HttpClient,
    token: str = "",
    delay: float,
    seconds: float,
) -> Taken:
    """Take ``requests`` streams, ``at_once`` at a time, of an engine that writes a token every ``delay`` seconds.

    After ``seconds`` no more are begun.
    """
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    prompt = f"Count. delay={delay}"
    clients: list[Client] = []
    for _ in range(at_once):
        _, client = await loop.create_connection(
            lambda: kind(address.netloc, token, prompt), address.hostname, address.port
        )
        await client.open()
        clients.append(client)
    taken = Taken()
    left = requests

    async def run(client: Client, wait: float) -> None:
        nonlocal left
        await asyncio.sleep(wait)
        while left > 0 and time.perf_counter() - begin < seconds:
            left -= 1
            taken.first_token_seconds.append(await client.take())
            taken.requests += 1

    spread = delay * TOKENS / at_once
    begin = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(run(client, number * spread))
    except* BadAnswerError as failed:
        raise SystemExit(f"{url}: {failed.exceptions[0]}") from None
    taken.seconds = time.perf_counter() - begin
    for client in clients:
        client.close()
    return taken
