"""The plain ASGI path of ``/v1``: what goes to the client, and when. Whole requests: ``test_live_http``."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from accounts.errors import UpstreamFailed
from router import direct, services, streams
from router.services import Write

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "headers": [(b"authorization", b"Bearer x"), (b"content-type", b"application/json")],
    "client": ("127.0.0.1", 1),
}


class Admitted:
    def __init__(self, *, stream: bool) -> None:
        self.asked = self
        self.fields = {"stream": stream}


class Client:
    """Sends a request, and sees what comes back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stream: bool = True) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": b"{}", "more_body": False})
        self.source: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.write: Write | None = None
        self.straight: Straight | None = None

        async def admit(who: object, read: object) -> Admitted:
            return Admitted(stream=stream)

        async def whole(_: object) -> bytes:
            item = await self.source.get()
            if isinstance(item, Exception):
                raise item
            return item

        monkeypatch.setattr(services, "admit", admit)
        monkeypatch.setattr(services, "relay", lambda _, write: self._relay(write))
        monkeypatch.setattr(services, "relay_complete", whole)

    async def _relay(self, write: Write | None) -> AsyncGenerator[bytes, None]:
        self.write = write
        try:
            while item := await self.source.get():
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed.set()

    async def ask(self) -> None:
        await direct.answer(
            {**SCOPE, direct.STRAIGHT: self.straight},
            self.incoming.get,
            self.sent.put,
            headers=[(b"x-ours", b"1")],
            refusal=lambda error: (error.status, [(b"x-code", error.code.encode())], b"refused"),
        )

    async def next(self) -> tuple[Any, ...]:
        message = await asyncio.wait_for(self.sent.get(), 5)
        if message["type"] == "http.response.start":
            return message["status"], dict(message["headers"])
        return message["body"], message["more_body"]


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(monkeypatch)


async def test_pieces_go_out_as_they_come(client: Client) -> None:
    task = asyncio.create_task(client.ask())
    client.source.put_nowait(b"one")
    status, headers = await client.next()
    assert (status, headers[b"x-ours"], headers[b"x-accel-buffering"]) == (200, b"1", b"no")
    assert await client.next() == (b"one", True)
    client.source.put_nowait(b"two")
    assert await client.next() == (b"two", True)
    client.source.put_nowait(b"")
    assert await client.next() == (b"", False)
    await task


@pytest.mark.django_db(transaction=True)
async def test_an_error_before_the_first_piece_has_a_status(client: Client) -> None:
    client.source.put_nowait(UpstreamFailed("No.", code="engine_stopped"))
    await client.ask()
    status, headers = await client.next()
    assert (status, headers[b"x-code"], headers[b"x-ours"]) == (502, b"engine_stopped", b"1")
    assert await client.next() == (b"refused", False)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "code"),
    [(UpstreamFailed("No.", code="engine_stopped"), b"engine_stopped"), (KeyError(), b"internal")],
)
async def test_an_error_after_the_first_piece_is_the_last_frame(
    client: Client, error: Exception, code: bytes
) -> None:
    client.source.put_nowait(b"one")
    client.source.put_nowait(error)
    await client.ask()
    await client.next()
    await client.next()
    body, more = await client.next()
    assert body.startswith(b'data: {"error":')
    assert code in body
    assert not more


async def test_a_silent_engine_is_bridged_by_comments(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.02)
    task = asyncio.create_task(client.ask())
    assert (await client.next())[0] == 200
    for _ in range(3):
        assert await client.next() == (streams.HEARTBEAT, True)
    client.source.put_nowait(b"one")
    while (piece := await client.next())[0] == streams.HEARTBEAT:
        pass
    assert piece == (b"one", True)
    client.source.put_nowait(b"")
    await task


class Straight:
    """A server's short way, which takes pieces until it is full."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.wrote = asyncio.Event()
        self.is_quiet = True
        self.is_full = False
        self.left: Callable[[], None] | None = None

    def begin(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.did.append(dict(headers))

    def write(self, piece: bytes, is_last: bool = False) -> bool:
        self.is_quiet = False
        self.did.append(piece)
        self.wrote.set()
        return not self.is_full

    def end(self) -> None:
        self.did.append("end")

    def on_left(self, left: Callable[[], None]) -> None:
        self.left = left


async def begun(client: Client) -> "tuple[Straight, asyncio.Task[None]]":
    """An answer of which one piece has gone out."""
    straight = client.straight = Straight()
    task = asyncio.create_task(client.ask())
    client.source.put_nowait(b"one")
    await asyncio.wait_for(straight.wrote.wait(), 5)
    return straight, task


async def test_where_the_server_can_nothing_is_sent_by_message(client: Client) -> None:
    straight, task = await begun(client)
    assert client.write is not None
    assert client.write(b"two")
    client.source.put_nowait(b"")
    await task
    headers, *did = straight.did
    assert (headers[b"x-ours"], headers[b"x-accel-buffering"]) == (b"1", b"no")
    assert did == [b"one", b"two", "end"]
    assert client.sent.empty()


async def test_where_there_is_no_room_a_message_waits_for_it(client: Client) -> None:
    straight = client.straight = Straight()
    straight.is_full = True
    task = asyncio.create_task(client.ask())
    client.source.put_nowait(b"one")
    assert await client.next() == (b"", True)
    client.source.put_nowait(b"")
    await task
    assert straight.did[1:] == [b"one", "end"]


@pytest.mark.django_db(transaction=True)
async def test_an_error_on_the_short_way_is_the_last_frame(client: Client) -> None:
    straight = client.straight = Straight()
    client.source.put_nowait(b"one")
    client.source.put_nowait(UpstreamFailed("No.", code="engine_stopped"))
    await client.ask()
    _, first, last, end = straight.did
    assert (first, end) == (b"one", "end")
    assert b"engine_stopped" in last


async def test_a_client_that_leaves_on_the_short_way_ends_it_at_once(client: Client) -> None:
    straight, task = await begun(client)
    assert straight.left is not None
    straight.left()
    await asyncio.wait_for(task, 5)
    assert client.closed.is_set()
    assert straight.did[1:] == [b"one"]


async def test_where_it_cannot_pieces_come_by_message(client: Client) -> None:
    task = asyncio.create_task(client.ask())
    client.source.put_nowait(b"one")
    await client.next()
    assert client.write is None
    client.source.put_nowait(b"")
    await task


@pytest.mark.parametrize("phase", ["waiting", "streaming"])
async def test_a_client_that_leaves_ends_it_at_once(client: Client, phase: str) -> None:
    task = asyncio.create_task(client.ask())
    if phase == "streaming":
        client.source.put_nowait(b"one")
        await client.next()
        await client.next()
    else:
        await asyncio.sleep(0)
    client.incoming.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(task, 5)
    if phase == "streaming":
        assert client.closed.is_set()
    assert client.sent.empty()


async def test_a_server_that_stops_cancels_it(client: Client) -> None:
    task = asyncio.create_task(client.ask())
    client.source.put_nowait(b"one")
    await client.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.closed.is_set()


async def test_an_unstreamed_answer_has_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(monkeypatch, stream=False)
    client.source.put_nowait(b'{"a":1}')
    await client.ask()
    status, headers = await client.next()
    assert (status, headers[b"content-length"]) == (200, b"7")
    assert await client.next() == (b'{"a":1}', False)


async def test_half_a_body_is_not_answered(client: Client) -> None:
    client.incoming = asyncio.Queue()
    client.incoming.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    client.incoming.put_nowait({"type": "http.disconnect"})
    await client.ask()
    assert client.sent.empty()
