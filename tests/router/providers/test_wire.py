"""The plain HTTP client of streams, against servers that write what the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from router.providers import wire
from router.providers.wire import Exchange, WireError

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Counts its connections; ``behave`` answers each request on them."""

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self.behave(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def server(behave: Behave) -> AsyncIterator[Server]:
    made = Server(behave)
    listening = await asyncio.start_server(made, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/x"
    try:
        yield made
    finally:
        listening.close()


def says(*pieces: bytes, close: bool = False) -> Behave:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return behave


async def all_of(exchange: Exchange) -> bytes:
    found = b""
    while piece := await exchange.read():
        found += piece
    return found


async def test_a_body_is_the_same_wherever_it_is_cut() -> None:
    for size in (1, 2, 7, len(WHOLE)):
        pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
        async with server(says(*pieces)) as engine:
            exchange = await wire.post(engine.url, b"{}", {"X-Request-Id": "r"})
            assert (exchange.status, await all_of(exchange)) == (200, b"hello world")
            exchange.close()
            assert b"X-Request-Id: r\r\n" in engine.requests[0]
            assert engine.requests[0].endswith(b"\r\n\r\n{}")


async def test_a_connection_is_used_again_after_a_complete_answer_and_only_then() -> None:
    async with server(says(WHOLE)) as engine:
        for _ in range(3):
            exchange = await wire.post(engine.url, b"{}", {})
            await all_of(exchange)
            exchange.close()
        assert engine.connections == 1
    async with server(says(CHUNKED + b"5\r\nhello\r\n")) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        assert await exchange.read() == b"hello"
        exchange.close()
        await asyncio.wait_for(engine.gone.wait(), 5)
        exchange = await wire.post(engine.url, b"{}", {})
        exchange.close()
        assert engine.connections == 2


async def test_a_connection_that_the_engine_closed_is_not_used_again() -> None:
    async with server(says(WHOLE, close=True)) as engine:
        for _ in range(2):
            exchange = await wire.post(engine.url, b"{}", {})
            assert await all_of(exchange) == b"hello world"
            exchange.close()
            while exchange.is_open:  # noqa: ASYNC110 - it has no event for that
                await asyncio.sleep(0)
        assert engine.connections == 2


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/9 what\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"]
)
async def test_no_answer_is_an_error(said: bytes) -> None:
    async with server(says(said, close=True)) as engine:
        with pytest.raises((WireError, ConnectionError)):
            await wire.post(engine.url, b"{}", {})


async def test_an_answer_that_breaks_off_is_an_error_after_what_came() -> None:
    async with server(says(CHUNKED + b"5\r\nhello\r\n", close=True)) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        assert await exchange.read() == b"hello"
        with pytest.raises(WireError):
            await exchange.read()
        exchange.close()


async def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    async with server(says(b"HTTP/1.1 200 OK\r\n\r\nhello", close=True)) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        assert await all_of(exchange) == b"hello"
        exchange.close()


async def test_an_interim_answer_is_not_the_answer() -> None:
    async with server(says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE)) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        assert (exchange.status, "link" in exchange.headers) == (200, False)
        assert await all_of(exchange) == b"hello world"
        exchange.close()


async def test_who_does_not_read_holds_the_engine_back() -> None:
    written = 0

    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(CHUNKED)
        for _ in range(2000):
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            written += 65536

    async with server(flood) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        last = -1
        while written != last:  # until it stands still
            last = written
            await asyncio.sleep(0.1)
        assert written < 2000 * 65536 / 4
        assert len(await exchange.read()) <= wire.BUFFER_MAX + 2**20
        while written == last:
            await exchange.read()
        exchange.close()


async def test_cancelling_before_the_answer_closes_the_connection() -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read(1)
        raise ConnectionError

    async with server(silent) as engine:
        task = asyncio.create_task(wire.post(engine.url, b"{}", {}))
        await asked.wait()
        task.cancel()
        await asyncio.wait_for(engine.gone.wait(), 5)


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with server(says(WHOLE)) as engine:
        with pytest.raises(ValueError, match="line break"):
            await wire.post(engine.url, b"{}", {"X-Request-Id": "a\r\nHost: b"})
        assert engine.requests == []


class Taker:
    """Takes what is poured, and may have had enough."""

    def __init__(self, most: int = 2**60) -> None:
        self.body = b""
        self._most = most

    def __call__(self, piece: bytes) -> bool:
        self.body += piece
        return len(self.body) < self._most


async def test_what_is_poured_is_the_body_wherever_it_is_cut() -> None:
    for size in (1, 2, 7, len(WHOLE)):
        pieces = [WHOLE[at : at + size] for at in range(0, len(WHOLE), size)]
        async with server(says(*pieces)) as engine:
            exchange = await wire.post(engine.url, b"{}", {})
            taker = Taker()
            assert await exchange.pour(taker) is False
            assert taker.body == b"hello world"
            exchange.close()


async def test_who_has_had_enough_gets_the_rest_later() -> None:
    async with server(says(CHUNKED + b"5\r\nhello\r\n", b"6\r\n world\r\n0\r\n\r\n")) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        first = Taker(1)
        assert await exchange.pour(first) is True
        rest = await all_of(exchange)
        assert first.body + rest == b"hello world"
        assert await exchange.pour(first) is False
        exchange.close()


async def test_pouring_from_an_answer_that_breaks_off_is_an_error_after_what_came() -> None:
    async with server(says(CHUNKED + b"5\r\nhello\r\n", close=True)) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        taker = Taker()
        with pytest.raises(WireError):
            await exchange.pour(taker)
        assert taker.body == b"hello"
        exchange.close()


async def test_an_error_of_who_takes_comes_out_of_pouring() -> None:
    begun = asyncio.Event()

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        await begun.wait()
        writer.write(b"5\r\nhello\r\n")

    def take(_: bytes) -> bool:
        raise KeyError

    async with server(behave) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        pouring = asyncio.create_task(exchange.pour(take))
        await asyncio.sleep(0)
        begun.set()
        with pytest.raises(KeyError):
            await asyncio.wait_for(pouring, 5)
        exchange.close()


async def test_cancelling_what_pours_closes_the_connection_and_takes_no_more() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"5\r\nhello\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    async with server(endless) as engine:
        exchange = await wire.post(engine.url, b"{}", {})
        taker = Taker()
        pouring = asyncio.create_task(exchange.pour(taker))
        while not taker.body:  # noqa: ASYNC110 - it is the taker that is tested
            await asyncio.sleep(0)
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        taken = taker.body
        exchange.close()
        await asyncio.wait_for(engine.gone.wait(), 5)
        assert taker.body == taken
