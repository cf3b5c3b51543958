"""Who may hold a websocket: over the consumer itself, and over a real server."""

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client

from accounts import services
from accounts.actors import Actor
from accounts.errors import Conflict, NotAllowed
from accounts.models import Role, Token, User
from accounts.permissions import Permission
from accounts.websockets import SocketConsumer
from audit.models import Event
from tests.backends.faults.table import fault

pytestmark = pytest.mark.django_db(transaction=True)


class Echo(SocketConsumer):
    permission = Permission.CHAT
    auth_timeout = 0.2
    recheck_seconds = 0.05
    log: list[str] = []

    async def opened(self) -> None:
        self.log.append("opened")
        await self.send_json({"type": "hello", "name": self.actor.name})

    async def received(self, frame: dict[str, Any]) -> None:
        match frame.get("do"):
            case "conflict":
                raise Conflict("Busy.")
            case "bug":
                raise RuntimeError("secret detail")
            case _:
                await self.send_json({"type": "echo", "id": frame.get("id")})

    async def closed(self) -> None:
        self.log.append("closed")


class Refusing(Echo):
    async def opened(self) -> None:
        raise NotAllowed("Not yours.")


@pytest.fixture(autouse=True)
def _alone(settings: Any) -> None:
    Echo.log.clear()
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@sync_to_async
def token_of(user: User, **more: Any) -> tuple[Token, str]:
    return services.token_create(actor=Actor.system(), user=user, name="socket", **more)


@sync_to_async
def cookie_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


@sync_to_async
def refusals() -> list[Event]:
    return list(Event.objects.filter(event="websocket.refused"))


def socket(consumer: Any = Echo, **headers: str) -> WebsocketCommunicator:
    given = {"host": "localhost", **headers}
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()]
    return WebsocketCommunicator(AuthMiddlewareStack(consumer.as_asgi()), "/ws/echo/", headers=raw)


async def close_code(connection: WebsocketCommunicator) -> int:
    accepted, _ = await connection.connect(timeout=5)
    assert accepted, "it is accepted first, so that the client sees the code"
    message = await connection.receive_output(timeout=5)
    assert message["type"] == "websocket.close", message
    code: int = message["code"]
    return code


async def hello(connection: WebsocketCommunicator) -> dict[str, Any]:
    accepted, _ = await connection.connect(timeout=5)
    assert accepted
    frame: dict[str, Any] = await connection.receive_json_from(timeout=5)
    return frame


async def test_a_bearer_header_signs_in(standard: User) -> None:
    _, plain = await token_of(standard)
    connection = socket(authorization=f"Bearer {plain}")
    assert await hello(connection) == {"type": "hello", "name": "stan"}
    await connection.disconnect()
    assert Echo.log == ["opened", "closed"]


async def test_a_first_frame_signs_in(standard: User) -> None:
    _, plain = await token_of(standard)
    connection = socket()
    await connection.connect()
    await connection.send_json_to({"type": "auth", "token": plain})
    assert (await connection.receive_json_from())["name"] == "stan"
    await asyncio.sleep(Echo.auth_timeout * 1.5)
    await connection.send_json_to({"id": 1})
    assert await connection.receive_json_from() == {"type": "echo", "id": 1}
    await connection.disconnect()


async def test_a_session_of_the_same_origin_signs_in(standard: User) -> None:
    cookie = await cookie_of(standard)
    connection = socket(cookie=cookie, host="localhost:8080", origin="http://localhost:8080")
    assert (await hello(connection))["name"] == "stan"
    await connection.disconnect()


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9999", "null"])
async def test_a_foreign_page_cannot_use_the_session(standard: User, origin: str) -> None:
    cookie = await cookie_of(standard)
    connection = socket(cookie=cookie, host="localhost:8080", origin=origin)
    assert await close_code(connection) == 4403
    assert len(await refusals()) == 1


async def test_a_session_without_an_origin_does_not_count(standard: User) -> None:
    connection = socket(cookie=await cookie_of(standard))
    assert await close_code(connection) == 4408


async def test_a_host_we_do_not_serve_is_refused(standard: User) -> None:
    _, plain = await token_of(standard)
    connection = socket(host="rebound.example", authorization=f"Bearer {plain}")
    assert await close_code(connection) == 4403


@pytest.mark.parametrize("header", ["Bearer mh_nonsense", "Bearer", "Bearer a b"])
async def test_a_bad_token_closes_with_4401(db: None, header: str) -> None:
    assert await close_code(socket(authorization=header)) == 4401
    assert [event.outcome for event in await refusals()] == ["refused"]


@pytest.mark.parametrize(
    "first",
    [
        '{"type": "chat"}',
        "[]",
        "nonsense",
        '{"type": "auth"}',
        '{"type": "auth", "token": 5}',
        '{"type": "auth", "token": "mh_x"}',
    ],
)
async def test_any_other_first_frame_closes_with_4401(db: None, first: str) -> None:
    connection = socket()
    await connection.connect()
    await connection.send_to(text_data=first)
    message = await connection.receive_output(timeout=5)
    assert (message["type"], message["code"]) == ("websocket.close", 4401)


async def test_silence_closes_with_4408(db: None) -> None:
    assert await close_code(socket()) == 4408
    assert Echo.log == []


@fault(35, 41)
async def test_somebody_who_may_not_is_closed_with_4403_and_recorded(guest: User) -> None:
    _, plain = await token_of(guest)
    connection = socket(authorization=f"Bearer {plain}")
    assert await close_code(connection) == 4403
    await connection.disconnect()
    (event,) = await refusals()
    assert (event.actor_name, event.target_id, event.surface) == ("gus", "/ws/echo/", "websocket")
    assert event.request_id
    assert Echo.log == []


async def test_scopes_narrow_sockets_too(owner: User) -> None:
    _, plain = await token_of(owner, scopes=["status:read"])
    assert await close_code(socket(authorization=f"Bearer {plain}")) == 4403


async def test_a_revoked_tokens_socket_ends(standard: User) -> None:
    token, plain = await token_of(standard)
    connection = socket(authorization=f"Bearer {plain}")
    await hello(connection)
    await sync_to_async(services.token_revoke)(actor=Actor.system(), public_id=token.public_id)
    message = await connection.receive_output(timeout=5)
    assert message["code"] == 4401


async def test_somebody_who_loses_the_role_loses_the_socket(standard: User) -> None:
    _, plain = await token_of(standard)
    connection = socket(authorization=f"Bearer {plain}")
    await hello(connection)
    await User.objects.filter(pk=standard.pk).aupdate(role=Role.GUEST)
    assert (await connection.receive_output(timeout=5))["code"] == 4401


async def test_a_signed_out_session_loses_the_socket(standard: User) -> None:
    cookie = await cookie_of(standard)
    connection = socket(cookie=cookie, host="localhost:8080", origin="http://localhost:8080")
    await hello(connection)
    key = cookie.partition("=")[2]
    await sync_to_async(SessionStore(key).delete)()
    assert (await connection.receive_output(timeout=5))["code"] == 4401


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "invalid_json"),
        ("[1]", "invalid_frame"),
        ("[" * 100_000, "invalid_json"),
        ('{"do": "conflict", "id": "c1"}', "conflict"),
        ('{"do": "bug", "id": "c1"}', "internal_error"),
    ],
)
async def test_a_bad_frame_is_answered_and_the_socket_stays(
    standard: User, frame: str, code: str
) -> None:
    _, plain = await token_of(standard)
    connection = socket(authorization=f"Bearer {plain}")
    await hello(connection)
    await connection.send_to(text_data=frame)
    answer = await connection.receive_json_from(timeout=5)
    assert (answer["type"], answer["error"]["code"]) == ("error", code)
    assert "secret detail" not in json.dumps(answer)
    assert ("id" in answer) == ("c1" in frame)
    await connection.send_to(bytes_data=b"\x00")
    assert (await connection.receive_json_from(timeout=5))["error"]["code"] == "invalid_frame"
    await connection.send_json_to({"id": 2})
    assert (await connection.receive_json_from(timeout=5))["id"] == 2
    await connection.disconnect()


async def test_a_consumer_may_refuse_when_it_opens(standard: User) -> None:
    _, plain = await token_of(standard)
    assert await close_code(socket(Refusing, authorization=f"Bearer {plain}")) == 4403
