"""Fast streams wait for their turn where there are many tokens; nothing else waits, and nothing is lost."""

import asyncio
from typing import Any

from router.providers import turns, wire
from router.providers.turns import Turns
from tests.router.providers.test_wire import CHUNKED, server

LENGTH = 0.015
STREAMS, PIECES = 20, 40


class Clock:
    """As much of an event loop as turns need."""

    def __init__(self) -> None:
        self.timers: list[Any] = []

    def call_later(self, delay: float, callback: Any) -> None:
        assert delay == LENGTH
        self.timers.append(callback)


def made() -> tuple[Turns, Clock]:
    clock = Clock()
    return Turns(clock, LENGTH), clock  # type: ignore[arg-type]


def many(found: Turns, now: float) -> None:
    """Have as many pieces of slow streams come as make a crowd."""
    for _ in range(turns._MANY):
        assert not found.waits(0.0, now, lambda: None)


def test_alone_nothing_waits_however_fast() -> None:
    found, clock = made()
    now = 1.0
    for _ in range(100):
        now += 0.002
        assert not found.waits(now - 0.002, now, lambda: None)
    assert clock.timers == []


def test_in_a_crowd_the_fast_wait_for_one_turn_together_and_the_slow_do_not() -> None:
    found, clock = made()
    many(found, 1.0)
    gone_on = []
    assert found.waits(0.99, 1.0, lambda: gone_on.append("a"))
    assert not found.waits(0.98, 1.0, lambda: gone_on.append("slow"))
    assert found.waits(0.999, 1.001, lambda: gone_on.append("b"))
    assert len(clock.timers) == 1
    clock.timers.pop()()
    assert gone_on == ["a", "b"]
    # The crowd of the turn before counts, one that is longer ago does not.
    assert found.waits(1.01, 1.016, lambda: None)
    assert not found.waits(1.99, 2.0, lambda: None)


def test_zero_is_off() -> None:
    found = Turns(Clock(), 0.0)  # type: ignore[arg-type]
    assert not any(found.waits(1.0, 1.0, lambda: None) for _ in range(100))


async def fast(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CHUNKED)
    for number in range(PIECES):
        writer.write(b"4\r\n%04d\r\n" % number)
        await asyncio.sleep(0.002)
    writer.write(b"0\r\n\r\n")


async def test_what_waited_arrives_whole_in_order_in_fewer_pieces_and_the_connection_is_kept() -> (
    None
):
    steps = []
    whole = b"".join(b"%04d" % number for number in range(PIECES))

    async def poured(url: str) -> bytes:
        exchange = await wire.post(url, b"{}", {})
        pieces: list[bytes] = []
        assert not await exchange.pour(lambda piece: pieces.append(piece) or True)  # type: ignore[func-returns-value]
        exchange.close()
        steps.append(len(pieces))
        return b"".join(pieces)

    async def read(url: str) -> bytes:
        exchange = await wire.post(url, b"{}", {})
        pieces = [piece async for piece in exchange.aiter_raw()]
        exchange.close()
        steps.append(len(pieces))
        return b"".join(pieces)

    async with server(fast) as engine:
        for way in (poured, read):
            for _ in range(2):
                found = await asyncio.gather(*(way(engine.url) for _ in range(STREAMS)))
                assert found == [whole] * STREAMS
        assert engine.connections == STREAMS
    assert sum(steps) / len(steps) < PIECES / 2


async def test_who_leaves_while_streams_wait_closes_the_connection_and_no_other() -> None:
    async with server(fast) as engine:
        exchanges = [await wire.post(engine.url, b"{}", {}) for _ in range(STREAMS)]
        for _ in range(3):
            for exchange in exchanges:
                await exchange.read()
        for exchange in exchanges[::2]:
            exchange.close()
        for exchange in exchanges[1::2]:
            rest = b"".join([piece async for piece in exchange.aiter_raw()])
            assert rest.endswith(b"%04d" % (PIECES - 1))
            exchange.close()
        await asyncio.wait_for(engine.gone.wait(), 5)
        assert not any(exchange.is_open for exchange in exchanges[::2])
