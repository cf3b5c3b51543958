"""The short ways for tokens, on a real server: what arrives is what uvicorn's own way would bring."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
import websockets

from mhsite.processes.uvicorn_protocols import Http, WebSocket
from router.direct import STRAIGHT

App = Callable[[Any, Any, Any], Awaitable[None]]
PIECE = b"x" * 65536


@asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app, port=0, http=Http, ws=WebSocket, ws_per_message_deflate=False, lifespan="off",
        log_config=None, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def begin(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def end(send: Any) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def test_what_is_written_arrives_between_what_is_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        assert scope[STRAIGHT].write(b"two ")
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        assert scope[STRAIGHT].write(b"three")
        await end(send)

    async with served(app) as address, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            assert (await client.get(f"http://{address}/")).text == "one two three"


async def test_a_client_that_takes_nothing_is_written_no_more_until_it_does() -> None:
    written = 0
    full, took = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal written
        await begin(send)
        while scope[STRAIGHT].write(PIECE):
            written += 1
            await asyncio.sleep(0)
        full.set()
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        took.set()
        await end(send)

    async with served(app) as address:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(full.wait(), 10)
        assert 0 < written < 1000
        assert not took.is_set()
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await asyncio.wait_for(reader.read(2**20), 10)
        assert took.is_set()
        assert body.count(b"x" * 65536) == written + 1
        writer.close()


async def test_writing_to_a_client_that_has_left_does_nothing() -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await begin(send)
        while (await receive())["type"] != "http.disconnect":
            pass
        scope[STRAIGHT].write(PIECE)
        left.set()

    async with served(app) as address:
        host, _, port = address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        writer.close()
        await asyncio.wait_for(left.wait(), 10)


async def test_an_answer_without_messages_is_what_messages_would_make_of_it() -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"x-ours", b"1")]

    async def straight(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        scope[STRAIGHT].begin(headers)
        scope[STRAIGHT].write(b"one ")
        scope[STRAIGHT].write(b"two")
        scope[STRAIGHT].end()

    async def by_message(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"one ", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await end(send)

    async def answers(app: App, connection: bytes) -> bytes:
        async with served(app) as address:
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n\r\n"
            answer = b""
            for asked in (b"keep-alive", connection):
                writer.write(request % asked)
                answer += await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
            if connection == b"close":
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        return re.sub(rb"date: [^\r]*", b"date: now", answer)

    for connection in (b"keep-alive", b"close"):
        assert await answers(straight, connection) == await answers(by_message, connection)


@pytest.mark.parametrize("when", ["early", "late"])
async def test_it_is_told_that_the_client_has_left(when: str) -> None:
    began, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # A long body: nothing more is read from the client until somebody wants to hear of it.
        while (await receive()).get("more_body"):
            pass
        began.set()
        if when == "late":
            await asyncio.sleep(0.1)
        scope[STRAIGHT].on_left(left.set)
        await left.wait()
        scope[STRAIGHT].begin([])
        assert scope[STRAIGHT].write(PIECE)
        scope[STRAIGHT].end()

    async with served(app) as address:
        host, _, port = address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        body = PIECE * 4
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        await asyncio.wait_for(began.wait(), 10)
        writer.transport.abort()
        await asyncio.wait_for(left.wait(), 10)


async def test_a_client_that_leaves_after_the_end_has_not_left() -> None:
    left, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope[STRAIGHT].on_left(left.set)
        scope[STRAIGHT].begin([])
        scope[STRAIGHT].end()
        ended.set()

    async with served(app) as address, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://{address}/")).status_code == 200
        await asyncio.wait_for(ended.wait(), 10)
    await asyncio.sleep(0.05)
    assert not left.is_set()


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536])
async def test_texts_of_every_length_arrive_whole(length: int) -> None:
    text = ("ü" + "x" * length)[:length] if length < 126 else "x" * length

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.send", "text": "end"})
        await send({"type": "websocket.close", "code": 1000})

    async with served(app) as address, websockets.connect(f"ws://{address}/") as client:
        assert [message async for message in client] == [text, "end"]


async def test_a_text_after_the_client_has_closed_is_refused_as_uvicorn_does() -> None:
    raised: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        try:
            await send({"type": "websocket.send", "text": "late"})
        except Exception as exc:
            raised.set_result(type(exc).__name__)
            raise

    async with served(app) as address:
        async with websockets.connect(f"ws://{address}/"):
            pass
        assert await asyncio.wait_for(raised, 10) == "ClientDisconnected"
