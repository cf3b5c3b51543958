"""An engine that costs next to nothing, so that what is measured is the proxy in front of it.

It speaks as much of vLLM's API as a proxy and this site need. As an engine that batches does, it takes a
step every ``--token-delay`` seconds and writes one token to each stream: one write per token, frames
encoded beforehand. The first token goes out at once. ``--token-delay 0``: steps follow each other as fast
as they can. Words of the prompt change that for one request: ``delay=SECONDS`` on a step of its own, and
``stamp``, with which every token says its number and when it was written (``time.monotonic_ns``).
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from typing import Any

import httptools
import uvloop

#: What every token is, and no proxy says of itself.
TOKEN = "~tok"
MODEL = "fake-model"
_DEFAULT_LENGTH = 64
_JSON = {
    "/health": b"{}",
    "/version": b'{"version":"0.32.0"}',
    "/get_server_info": b"{}",
    "/get_model_info": b"{}",
}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(delta: dict[str, Any] | None, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": reason}
    body = {
        "id": "chatcmpl-3f2a9c4e8b7d4f0a9d1c6e5b2a7f8c90",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": MODEL,
        "choices": [] if delta is None else [choice],
        **more,
    }
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    + chunk(frame({"role": "assistant", "content": ""}))
)
PLAIN = chunk(frame({"content": TOKEN}))
STAMPED = frame({"content": "STAMP"}).split(b"STAMP")


def tail(length: int) -> bytes:
    """The end of a stream: reason, usage, end marker, end of the body."""
    usage = {"prompt_tokens": 5, "completion_tokens": length, "total_tokens": length + 5}
    frames = frame({}, "length") + frame(None, usage=usage) + b"data: [DONE]\n\n"
    return chunk(frames) + b"0\r\n\r\n"


def whole(length: int) -> bytes:
    """An answer that is not streamed."""
    text = TOKEN * length
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "length",
    }
    usage = {"prompt_tokens": 5, "completion_tokens": length, "total_tokens": length + 5}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1760000000,
        "model": MODEL,
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(body).encode()


class Steps:
    """The streams that run at one pace."""

    def __init__(self, delay: float, offset: float) -> None:
        self.delay = delay
        self._offset = offset
        self.streams: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._next = 0.0

    def add(self, stream: "Connection") -> None:
        self.streams.add(stream)
        if not self._running:
            self._running = True
            # Steps of all batches are on one clock.
            now = self._loop.time()
            self._next = now - now % self.delay + self._offset if self.delay else now
            self._wait()

    def _wait(self) -> None:
        if not self.delay:
            self._loop.call_soon(self._step)
            return
        self._next = max(self._next + self.delay, self._loop.time())
        self._loop.call_at(self._next, self._step)

    def _step(self) -> None:
        for stream in list(self.streams):
            if not stream.token():
                self.streams.discard(stream)
        self._running = bool(self.streams)
        if self._running:
            self._wait()


class Engine:
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._steps: dict[tuple[float, int], Steps] = {}
        self.started = self.aborted = 0

    def steps(self, prompt: str) -> Steps:
        found = re.search(r"delay=([\d.]+)", prompt)
        delay = float(found[1]) if found else self._delay
        found = re.search(r"batch=(\d+)", prompt)
        batch = int(found[1]) if found else 0
        if (delay, batch) not in self._steps:
            self._steps[delay, batch] = Steps(delay, delay * batch / 10)
        return self._steps[delay, batch]


class Connection(asyncio.Protocol):
    """One client's connection; one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stamp = False
        self._left = self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._left:
            self._engine.aborted += 1
        self._left = 0

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.decode().partition("?")[0]
        if path == "/v1/chat/completions":
            self._chat(json.loads(self._body))
        elif path == "/v1/models":
            card = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 8192}
            self._answer(json.dumps({"object": "list", "data": [card]}).encode())
        elif path == "/_bench/state":
            counts = {"started": self._engine.started, "aborted": self._engine.aborted}
            self._answer(json.dumps(counts).encode())
        else:
            self._answer(_JSON.get(path, b"{}"), 200 if path in _JSON else 404)

    def _chat(self, asked: dict[str, Any]) -> None:
        self._engine.started += 1
        length = asked.get("max_completion_tokens") or asked.get("max_tokens") or _DEFAULT_LENGTH
        if not asked.get("stream"):
            self._answer(whole(length))
            return
        prompt = str(asked["messages"][-1]["content"])
        self._stamp = "stamp" in prompt
        self._length = self._left = length
        self._transport.write(HEAD)
        if self.token():
            self._engine.steps(prompt).add(self)

    def token(self) -> bool:
        """Write one token; say whether more are to come."""
        if not self._left:
            return False
        self._left -= 1
        self._transport.write(self._stamped() if self._stamp else PLAIN)
        if not self._left:
            self._transport.write(tail(self._length))
        return self._left > 0

    def _stamped(self) -> bytes:
        number = self._length - self._left
        stamp = b"%d %d %b" % (number, time.monotonic_ns(), TOKEN.encode())
        return chunk(STAMPED[0] + stamp + STAMPED[1])

    def _answer(self, body: bytes, status: int = 200) -> None:
        head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(host: str, port: int, delay: float) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, ended.set)
    engine = Engine(delay)
    await loop.create_server(lambda: Connection(engine), host, port, backlog=4096)
    print(f"the engine listens on {port}", flush=True)
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-delay", type=float, default=0.02)
    parser.add_argument("--served-model-name", default=MODEL)
    asked = parser.parse_args()
    uvloop.run(serve(asked.host, asked.port, asked.token_delay))


if __name__ == "__main__":
    sys.exit(main())
