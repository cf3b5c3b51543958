import asyncio
import gc
from collections.abc import AsyncGenerator

import pytest

from accounts.errors import MhError, UpstreamFailed
from router import streams
from router.streams import HEARTBEAT, EventStream, Stream


class Source:
    """A source under the test's control, that knows whether it was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.given = 0

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            while item := await self.queue.get():
                if isinstance(item, Exception):
                    raise item
                self.given += 1
                yield item
        finally:
            self.closed.set()


@pytest.fixture
def source() -> Source:
    return Source()


def stream_of(source: Source) -> Stream:
    return Stream(source(), on_error=lambda error: b"error " + error.code.encode())


async def closed(source: Source) -> None:
    await asyncio.wait_for(source.closed.wait(), 5)


async def test_bytes_come_as_they_are_made_and_end_with_the_source(source: Source) -> None:
    stream = stream_of(source)
    body = stream.bytes()
    for item in (b"one", b"two"):
        source.queue.put_nowait(item)
        assert await anext(body) == item
    source.queue.put_nowait(b"")
    assert [item async for item in body] == []


@pytest.mark.fault(34)
async def test_a_silent_source_sends_the_heartbeat_of_its_protocol(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.01)
    stream = Stream(source(), on_error=lambda error: b"", heartbeat=b'{"done":false}\n')
    await stream.begin()
    body = stream.bytes()
    assert await anext(body) == b'{"done":false}\n'
    source.queue.put_nowait(b"")
    await closed(source)


async def test_what_the_client_has_not_taken_yet_comes_at_once(source: Source) -> None:
    stream = stream_of(source)
    source.queue.put_nowait(b"one")
    source.queue.put_nowait(b"two")
    source.queue.put_nowait(b"")
    await closed(source)
    assert [item async for item in stream.bytes()] == [b"onetwo"]


async def test_an_error_before_the_first_byte_is_raised(source: Source) -> None:
    source.queue.put_nowait(UpstreamFailed("no"))
    with pytest.raises(UpstreamFailed):
        await stream_of(source).begin()


async def test_an_error_later_is_the_last_frame(source: Source) -> None:
    stream = stream_of(source)
    source.queue.put_nowait(b"one")
    await stream.begin()
    source.queue.put_nowait(UpstreamFailed("no"))
    assert b"".join([item async for item in stream.bytes()]) == b"oneerror upstream_failed"


async def test_a_fault_of_ours_is_an_error_that_says_nothing_of_it(source: Source) -> None:
    source.queue.put_nowait(RuntimeError("secret"))
    with pytest.raises(MhError) as caught:
        await stream_of(source).begin()
    assert (caught.value.status, "secret" in caught.value.message) == (500, False)


async def test_silence_is_filled_with_heartbeats(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.02)
    stream = stream_of(source)
    await stream.begin()
    body = stream.bytes()
    assert await anext(body) == HEARTBEAT
    source.queue.put_nowait(b"one")
    assert await anext(body) == b"one"
    assert await anext(body) == HEARTBEAT
    await body.aclose()
    await closed(source)


async def test_a_source_waits_for_a_slow_client(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BUFFER_MAX", 10)
    stream = stream_of(source)
    for _ in range(20):
        source.queue.put_nowait(b"1234")
    await stream.begin()
    for _ in range(50):
        await asyncio.sleep(0)
    assert source.given == 3
    body = stream.bytes()
    assert await anext(body) == b"1234" * 3
    assert await anext(body) == b"1234" * 3


async def test_a_client_that_leaves_closes_the_source(source: Source) -> None:
    stream = stream_of(source)
    source.queue.put_nowait(b"one")
    body = aiter(EventStream(stream))
    await anext(body)
    await body.aclose()
    await closed(source)


async def test_a_response_that_is_closed_or_dropped_unsent_closes_the_source() -> None:
    first, second = Source(), Source()
    response = EventStream(stream_of(first))
    await asyncio.sleep(0)
    await asyncio.to_thread(response.close)
    await closed(first)
    response = EventStream(stream_of(second))
    await asyncio.sleep(0)
    del response
    gc.collect()
    await closed(second)


async def test_a_view_that_is_cancelled_while_it_waits_closes_the_source(source: Source) -> None:
    waiting = asyncio.create_task(stream_of(source).begin())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await closed(source)
