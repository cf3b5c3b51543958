"""Frames that are passed on: poured, they are the same as one after the other."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from accounts.errors import MhError
from router.providers.frames import Frames
from router.providers.openai_stream import Relay

TOKEN = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
ERROR = b'data: {"error":{"message":"no","code":500}}\n\n'


class Response:
    """An answer of httpx's kind; ``wire``'s is poured in ``test_live_http``."""

    status_code = 200
    headers: Mapping[str, str] = {}

    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    aiter_bytes = aiter_raw

    async def aread(self) -> bytes:
        return b""

    async def aclose(self) -> None:
        pass


async def one_by_one(frames: Frames) -> bytes:
    return b"".join([frame async for frame in frames])


async def poured(frames: Frames, found: list[bytes], *, patient: bool) -> bytes:
    def take(frame: bytes) -> bool:
        found.append(frame)
        return patient

    while await frames.pour(take):
        assert not patient
    return b"".join(found)


@pytest.mark.parametrize("size", [1, 10, len(TOKEN), 10_000])
@pytest.mark.parametrize("patient", [True, False])
async def test_poured_they_are_the_same(size: int, patient: bool) -> None:
    body = TOKEN * 3 + LAST
    assert await one_by_one(Frames(Response(body, size))) == body
    assert await poured(Frames(Response(body, size)), [], patient=patient) == body


async def iterated(frames: Frames, found: list[bytes]) -> None:
    async for frame in frames:
        found.append(frame)  # noqa: PERF401 - what came before an error counts


@pytest.mark.parametrize("how", ["iterated", "poured"])
@pytest.mark.parametrize("end", [ERROR, b"", TOKEN[:9]])
async def test_what_breaks_off_is_an_error_after_whole_frames(how: str, end: bytes) -> None:
    found: list[bytes] = []
    frames: Any = Frames(Response(TOKEN + end, len(TOKEN)))
    taken = poured(frames, found, patient=True) if how == "poured" else iterated(frames, found)
    with pytest.raises(MhError):
        await taken
    assert b"".join(found) == TOKEN


@pytest.mark.parametrize("size", [1, len(TOKEN), 2 * len(TOKEN)])
async def test_plain_frames_go_their_own_way_and_all_others_do_not(size: int) -> None:
    counted = (
        b'data: {"choices":[{"delta":{},"finish_reason":null}],"usage":{"total_tokens":1}}\n\n'
    )
    plain: list[bytes] = []
    seen: list[bytes] = []

    def to(found: list[bytes]) -> Any:
        return lambda frame: found.append(frame) is None

    body = TOKEN + counted + TOKEN + LAST
    await Frames(Response(body, size)).pour(to(seen), plain=to(plain))
    assert all(piece == TOKEN for piece in plain)
    assert len(plain) == (1 if size == len(TOKEN) else 0)
    assert counted in b"".join(seen)
    assert b"".join(seen).endswith(LAST)


@pytest.mark.parametrize(
    "more",
    [
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"delta":{},"finish_reason": "stop"}]}\n\n',
        ERROR,
        b"data: [DONE]\n\n",
        b'data: {"choices":[],"usage":{}}\n\n',
    ],
)
def test_a_token_with_anything_else_is_not_plain(more: bytes) -> None:
    assert Relay().is_plain(TOKEN)
    assert not Relay().is_plain(TOKEN + more)
    assert not Relay().is_plain(more + TOKEN)
    assert not Relay().is_plain(TOKEN + b"data: half")
    relay = Relay()
    relay.feed(TOKEN[:9])
    assert not relay.is_plain(TOKEN)
