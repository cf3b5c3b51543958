"""``/ws/chat/`` on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from router.consumers import CHATS_MAX
from tests.router.live import Site

pytestmark = pytest.mark.process

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def socket(site: Site) -> AsyncIterator[ClientConnection]:
    async with connect(site.websocket, additional_headers=site.auth, proxy=None) as socket:
        yield socket


async def send(socket: ClientConnection, **frame: Any) -> None:
    await socket.send(json.dumps(frame))


async def chat(socket: ClientConnection, chat_id: Any, **more: Any) -> None:
    await send(socket, type="chat", id=chat_id, messages=FRANCE, **more)


async def receive(socket: ClientConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 10))
    return frame


async def until_end(socket: ClientConnection, *ids: str) -> dict[str, list[dict[str, Any]]]:
    """Frames by chat, until each of ``ids`` has ended."""
    frames: dict[str, list[dict[str, Any]]] = {chat_id: [] for chat_id in ids}
    open_chats = set(ids)
    while open_chats:
        frame = await receive(socket)
        frames[frame["id"]].append(frame)
        if frame["type"] in {"done", "error"}:
            open_chats.discard(frame["id"])
    return frames


async def test_several_chats_share_a_socket(site: Site, socket: ClientConnection) -> None:
    site.engine.behave(token_delay=0.01)
    for chat_id in ("a", "b", "c"):
        await chat(socket, chat_id)
    frames = await until_end(socket, "a", "b", "c")
    requests = set()
    for found in frames.values():
        assert [frame["type"] for frame in found] == ["start", *["token"] * 7, "done"]
        assert "".join(frame["content"] for frame in found[1:-1]).endswith("is Paris.")
        requests.add(found[0]["request_id"])
    assert len(requests) == 3


async def test_a_ping_is_answered_while_nothing_else_is_said(socket: ClientConnection) -> None:
    await send(socket, type="ping")
    assert await receive(socket) == {"type": "pong"}


async def test_a_cancelled_chat_stops_in_the_engine_and_the_others_go_on(
    site: Site, socket: ClientConnection
) -> None:
    site.engine.behave(token_delay=0.02, tokens=1000)
    await chat(socket, "long")
    await chat(socket, "short", options={"maxTokens": 20})
    assert (await receive(socket))["type"] == "start"
    before = (await asyncio.to_thread(site.engine.state))["aborted"]
    await send(socket, type="cancel", id="long")
    await asyncio.to_thread(site.engine.await_abort, before)
    frames = await until_end(socket, "long", "short")
    assert frames["long"][-1]["finish_reason"] == "cancelled"
    assert frames["short"][-1]["finish_reason"] == "length"


async def test_a_chat_is_cancelled_before_its_first_token(
    site: Site, socket: ClientConnection
) -> None:
    site.engine.behave("silent")
    await chat(socket, "a")
    await asyncio.to_thread(site.engine.await_running, 1)
    before = (await asyncio.to_thread(site.engine.state))["aborted"]
    await send(socket, type="cancel", id="a")
    await asyncio.to_thread(site.engine.await_abort, before)


async def test_a_client_that_leaves_stops_all_its_chats(
    site: Site, socket: ClientConnection
) -> None:
    site.engine.behave(token_delay=0.02, tokens=1000)
    for chat_id in ("a", "b", "c"):
        await chat(socket, chat_id)
    await asyncio.to_thread(site.engine.await_running, 3)
    socket.transport.abort()
    await asyncio.to_thread(site.engine.await_running, 0, seconds=1)


async def test_an_id_is_one_chats_at_a_time(site: Site, socket: ClientConnection) -> None:
    site.engine.behave(token_delay=0.05)
    await chat(socket, "a")
    await receive(socket)
    await chat(socket, "a")
    codes = []
    while True:
        frame = await receive(socket)
        codes += [frame["error"]["code"]] if frame["type"] == "error" else []
        if frame["type"] == "done":
            break
    assert codes == ["duplicate_id"]
    await chat(socket, "a", options={"maxTokens": 1})
    await until_end(socket, "a")


async def test_too_many_chats_on_one_socket_are_refused(
    site: Site, socket: ClientConnection
) -> None:
    site.engine.behave("silent")
    for number in range(CHATS_MAX + 1):
        await chat(socket, f"chat{number}")
    while (frame := await receive(socket))["type"] != "error":
        assert frame["type"] == "start"
    assert frame["id"] == f"chat{CHATS_MAX}"
    assert frame["error"]["code"] == "too_many_requests"


async def test_an_engine_that_breaks_off_ends_the_chat_with_an_error(
    site: Site, socket: ClientConnection
) -> None:
    for habit in ("error-after=2", "cut-after=2", "end-after=2"):
        site.engine.behave(habit, token_delay=0.01)
        await chat(socket, habit)
        frames = (await until_end(socket, habit))[habit]
        assert frames[-1]["error"]["code"] == "engine_stopped"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ({"type": "dance", "id": "a"}, "unknown_type"),
        ({"type": ["chat"]}, "unknown_type"),
        ({"type": "chat", "id": "\ud83d", "messages": FRANCE}, "invalid_text"),
        ({"type": "chat", "messages": FRANCE}, "missing_field"),
        ({"type": "chat", "id": "a"}, "missing_field"),
        ({"type": "chat", "id": "", "messages": FRANCE}, "invalid_request"),
        ({"type": "chat", "id": "a", "messages": FRANCE, "zork": 1}, "unknown_key"),
        ({"type": "chat", "id": "a", "messages": FRANCE, "model": "gpt-9"}, "model_not_found"),
        ({"type": "chat", "id": "a", "messages": FRANCE, "options": {"topP": 2}}, "invalid_value"),
        ({"type": "cancel", "id": "nobody"}, "chat_not_found"),
    ],
)
async def test_a_bad_frame_is_answered_and_the_socket_stays(
    socket: ClientConnection, frame: Any, code: str
) -> None:
    await socket.send(frame if isinstance(frame, str) else json.dumps(frame))
    error = await receive(socket)
    assert (error["type"], error["error"]["code"]) == ("error", code)
    await chat(socket, "after")
    await until_end(socket, "after")


async def test_strangers_and_guests_are_turned_away(site: Site) -> None:
    cases = [({"Authorization": "Bearer nonsense"}, 4401), (site.auth_of("guest"), 4403)]
    for headers, code in cases:
        async with connect(site.websocket, additional_headers=headers, proxy=None) as socket:
            await asyncio.wait_for(socket.wait_closed(), 5)
            assert socket.close_code == code
