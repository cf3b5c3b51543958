"""The base of every websocket: who may connect, and what becomes of malformed frames.

Close codes: 4401 not signed in (or the token was revoked meanwhile), 4403 not allowed, 4408 no
``auth`` frame in time, 4429 too many. A socket is accepted before it is refused: a server answers a
close before accept with a plain HTTP 403, and the client would never see the code.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import SimpleNamespace
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.http.request import split_domain_port, validate_host
from django.utils import timezone

from accounts import database, requests, selectors, services
from accounts.access import settle
from accounts.actors import Actor
from accounts.errors import InvalidRequest, MhError, NotAllowed, NotAuthenticated, TooMany
from accounts.models import Token, User
from accounts.permissions import Permission, is_allowed
from accounts.signals import announce
from accounts.texts import halves_check

logger = logging.getLogger(__name__)

_token_users: Final[database.SharedReads[User | None]] = database.SharedReads()

NOT_SIGNED_IN = 4401
NOT_ALLOWED = 4403
AUTH_TIMED_OUT = 4408
TOO_MANY = 4429

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Phase = Literal["waiting", "open", "closed"]


class AuthTimedOut(NotAuthenticated):
    """No ``auth`` frame came in time."""

    code = "auth_timed_out"


_CODES: dict[type[MhError], int] = {
    AuthTimedOut: AUTH_TIMED_OUT,
    NotAllowed: NOT_ALLOWED,
    TooMany: TOO_MANY,
}


class SocketConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # channels has no types
    """A websocket of somebody signed in: by session (same origin), bearer header, or first frame.

    Subclasses set ``permission`` and override ``opened``, ``received`` and ``closed``. An ``MhError``
    raised by one of them becomes an error frame; the connection stays, except that ``NotAllowed``
    and ``NotAuthenticated`` from ``opened`` close it.
    """

    #: What the one who connects must be allowed to do.
    permission: ClassVar[Permission]
    #: Seconds a client has to send its ``auth`` frame.
    auth_timeout: ClassVar[float] = 5.0
    #: Seconds between looks at whether the user and token still may; so a revoked token's socket ends.
    recheck_seconds: ClassVar[float] = 15.0

    actor: Actor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase: Phase = "waiting"
        self._token: Token | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[MhError] = asyncio.get_running_loop().create_future()
        self._end_told = False
        self._was_opened = False

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        """Run until the client or we end it."""
        await super().__call__(scope, self._receive_or_end(receive), send)

    async def opened(self) -> None:
        """Somebody is signed in and allowed: send the first frame, join groups."""

    async def received(self, frame: dict[str, Any]) -> None:
        """Handle one frame of the client, a JSON object."""

    async def closed(self) -> None:
        """The socket is gone, after ``opened`` was called: leave groups, stop tasks."""

    # What Channels calls.

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Do what Channels' own does, without a thread for each frame to look after connections.

        Whatever uses the database here goes through ``database_sync_to_async``, which looks after them.
        """
        handler = getattr(self, get_handler_name(message), None)
        if handler is None:
            msg = f"No handler for message type {message['type']}"
            raise ValueError(msg)
        await handler(message)

    async def connect(self) -> None:
        """Accept, and find out who it is."""
        requests.request_id_set(self._header(b"x-request-id") or requests.request_id_new())
        await self.accept()
        try:
            await self._identify()
        except MhError as error:
            await self._refuse(error)

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **_: Any
    ) -> None:
        """Decode one frame and pass it on."""
        del bytes_data  # frames are text; ``_decoded`` says so
        if self._phase == "closed":
            return
        try:
            frame = _decoded(text_data)
        except InvalidRequest as error:
            await self._invalid_frame(error)
            return
        if self._phase == "waiting":
            await self._first_frame(frame)
        else:
            await self._guarded(lambda: self.received(frame), frame.get("id"))

    async def disconnect(self, code: int) -> None:
        """Clean up."""
        del code
        self._end()
        if self._was_opened:
            await self.closed()

    async def send_error(self, error: MhError, *, frame_id: object = None) -> None:
        """Send an error frame, with the ``id`` of the client's frame it answers, if any."""
        frame: dict[str, Any] = {
            "type": "error",
            "error": error.body(requests.current_request_id()),
        }
        if isinstance(frame_id, str | int):
            frame["id"] = frame_id
        await self.send_json(frame)

    # Who it is.

    async def _identify(self) -> None:
        if not self._host_is_ours():
            raise NotAllowed("This host name is not served here.", code="host_not_allowed")
        header = self._header(b"authorization")
        plain = requests.bearer_of(header) if header else None
        if plain is not None:
            await self._sign_in_by_token(plain)
            return
        user = self.scope.get("user")
        if user is not None and user.is_authenticated:
            origin = self._header(b"origin")
            if origin and not self._same_origin(origin):
                raise NotAllowed(
                    "A page of another site may not use your session.", code="cross_origin"
                )
            if origin:
                await self._allow(getattr(user, "_wrapped", user), None)
                return
        self._watch = asyncio.create_task(self._await_auth())

    async def _first_frame(self, frame: dict[str, Any]) -> None:
        token = frame.get("token")
        try:
            if frame.get("type") != "auth" or not isinstance(token, str):
                raise NotAuthenticated(
                    'Sign in first: send {"type": "auth", "token": "…"} as the first frame.'
                )
            await self._sign_in_by_token(token)
        except MhError as error:
            await self._refuse(error)

    async def _sign_in_by_token(self, plain: str) -> None:
        token = await database_sync_to_async(services.token_use)(
            plain, source_address=self._address()
        )
        await self._allow(token.user, token)

    async def _allow(self, user: User, token: Token | None) -> None:
        """Let ``user`` in, if they may."""
        scopes = tuple(token.scopes) if token is not None else ()
        actor = self._actor(user, scopes, token.public_id if token is not None else "")
        if not is_allowed(user, self.permission, scopes=scopes):
            self.actor = actor
            raise NotAllowed(
                f"{actor.name} may not use this: it needs the permission {self.permission}."
            )
        self._end(phase="open")
        self.actor, self._token, self._was_opened = actor, token, True
        self._watch = asyncio.create_task(self._recheck())
        try:
            await self._guarded(self.opened, None, reraise=(NotAllowed, NotAuthenticated))
        except (NotAllowed, NotAuthenticated) as error:
            await self._close_with(error)

    async def _await_auth(self) -> None:
        await asyncio.sleep(self.auth_timeout)
        if self._phase == "waiting":
            self._end_soon(AuthTimedOut("No auth frame came in time."))

    async def _recheck(self) -> None:
        """End the socket when its user or token may no longer use it."""
        while self._phase == "open":
            await asyncio.sleep(self.recheck_seconds)
            asked = time.perf_counter()
            try:
                is_allowed_still = database.known(self._still_allowed, asked)
            except database.NotKnownError:
                is_allowed_still = await database_sync_to_async(self._still_allowed)(asked)
            if not is_allowed_still:
                self._end_soon(NotAuthenticated("Sign in again: your access has changed."))
                return

    def _still_allowed(self, asked: float) -> bool:
        user = self._token_user(asked) if self._token is not None else self._session_user()
        return is_allowed(user, self.permission, scopes=self.actor.scopes)

    def _token_user(self, asked: float) -> User | None:
        """Look the token up again: once for all sockets of a token, and not while nothing has changed."""
        token = self._token
        if token is None or (token.expiry is not None and token.expiry <= timezone.now()):
            return None

        def read() -> User | None:
            if not selectors.token_is_valid(token.public_id):
                return None
            return User.objects.filter(pk=token.user_id).first()

        return _token_users.get(token.public_id, asked, read)

    def _session_user(self) -> User | None:
        """Look the session up again: it may be signed out, or its password changed."""
        database.reading()
        old = self.scope.get("session")
        if old is None or old.session_key is None:
            return None
        request: Any = SimpleNamespace(session=SessionStore(old.session_key))
        user = get_user(request)
        return user if isinstance(user, User) else None

    # How it is refused.

    async def _refuse(self, error: MhError) -> None:
        """Record the refusal and close with its code."""
        actor = getattr(self, "actor", None) or self._actor(None, ())
        await database_sync_to_async(announce)(
            actor=actor,
            event="websocket.refused",
            category="permission",
            outcome="refused",
            target_type="path",
            target_id=str(self.scope.get("path", ""))[:128],
            message=error.message,
        )
        await self._close_with(error)

    async def _close_with(self, error: MhError) -> None:
        if self._phase == "closed":
            return
        self._phase = "closed"
        code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), NOT_SIGNED_IN)
        # A close frame's reason has at most 123 bytes (RFC 6455, 5.5).
        reason = error.message.encode()[:123].decode(errors="ignore")
        await self.close(code, reason=reason)

    async def socket_end(self, message: dict[str, Any]) -> None:
        """Close for a reason of our own; dispatched like a frame of the client."""
        await self._close_with(message["error"])

    def _end_soon(self, error: MhError) -> None:
        if not self._ending.done():
            self._ending.set_result(error)

    def _receive_or_end(self, receive: Receive) -> Receive:
        """Return a ``receive`` that also brings our own end of the socket.

        A close sent from another task while ``receive`` is pending never leaves granian.
        """

        async def merged() -> Message:
            if self._end_told:
                return await receive()
            incoming = asyncio.ensure_future(receive())
            try:
                both: set[asyncio.Future[Any]] = {incoming, self._ending}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                incoming.cancel()
                raise
            if incoming.done():
                return incoming.result()
            incoming.cancel()
            self._end_told = True
            return {"type": "socket.end", "error": self._ending.result()}

        return merged

    async def _invalid_frame(self, error: InvalidRequest) -> None:
        if self._phase == "waiting":
            await self._refuse(NotAuthenticated(error.message))
        else:
            await self.send_error(error)

    async def _guarded(
        self,
        call: Callable[[], Awaitable[None]],
        frame_id: object,
        *,
        reraise: tuple[type[MhError], ...] = (),
    ) -> None:
        """Call the subclass; what it raises becomes an error frame."""
        try:
            await call()
        except reraise:
            raise
        except MhError as error:
            await database_sync_to_async(settle)(error)
            await self.send_error(error, frame_id=frame_id)
        except Exception:  # the boundary: a fault of ours must not end the client's other chats
            logger.exception("A websocket frame failed")
            await self.send_error(
                MhError("Something went wrong here; the site's log has the reason."),
                frame_id=frame_id,
            )

    def _end(self, *, phase: Phase = "closed") -> None:
        self._phase = phase
        watch, self._watch = self._watch, None
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()

    # What the handshake says.

    def _actor(self, user: User | None, scopes: tuple[str, ...], token_id: str = "") -> Actor:
        return Actor(
            user=user,
            surface="websocket",
            request_id=requests.current_request_id(),
            source_address=self._address(),
            scopes=scopes,
            token_id=token_id,
        )

    def _address(self) -> str:
        client = self.scope.get("client")
        return str(client[0])[:64] if client else ""

    def _header(self, name: bytes) -> str:
        for key, value in self.scope.get("headers", ()):
            if key.lower() == name:
                return str(value.decode("latin-1"))
        return ""

    def _host_is_ours(self) -> bool:
        domain, _ = split_domain_port(self._header(b"host"))
        return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)

    def _same_origin(self, origin: str) -> bool:
        """Compare host and port; the scheme is the TLS proxy's affair."""
        return urlsplit(origin).netloc.lower() == self._header(b"host").lower()


def _decoded(text: str | None) -> dict[str, Any]:
    if text is None:
        raise InvalidRequest("Send text frames that hold one JSON object.", code="invalid_frame")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The frame is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(frame, dict):
        raise InvalidRequest("The frame must be a JSON object.", code="invalid_frame")
    halves_check(text, frame)
    return frame
