"""Letting a request in: who asks, may they, what, and who answers, in one visit to the database."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from router.holding import Waiting, resolved
from router.providers.openai_compatible import encode
from router.schemas import ChatRequest
from router.selectors import Resolved


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """A request of OpenAI's API, to be passed on with as little change as can be."""

    path: str
    #: What the client sent, and what it parses to.
    body: bytes
    fields: Mapping[str, Any]

    def for_route(self, found: Resolved) -> bytes:
        """Return the body for the engine: the client's own bytes where nothing has to change."""
        defaults = {
            name: value
            for name, value in found.route.options.items()
            if self.fields.get(name) is None
            and not (name == "max_tokens" and self.fields.get("max_completion_tokens") is not None)
        }
        if not defaults and self.fields.get("model") == found.route.model:
            return self.body
        return encode({**self.fields, **defaults, "model": found.route.model})


_Asked = TypeVar("_Asked", ChatRequest, OpenAICall)


@dataclass(frozen=True, slots=True)
class Admitted(Generic[_Asked]):
    """A request that may be sent to an engine."""

    actor: Actor
    asked: _Asked
    #: Its way to an engine that answers.
    waiting: Waiting
    #: When it came (``time.perf_counter``).
    begin: float


async def admit(who: Callable[[float], Actor], read: Callable[[], _Asked]) -> Admitted[_Asked]:
    """Do everything that needs the database in one visit: who asks, may they, what, who answers.

    In this order: the body is read when it is known that they may chat, so that strangers learn
    nothing of it.

    Args:
        who: says who asks, given the time it came; may raise ``NotAuthenticated``.
        read: parses what they ask; may raise ``InvalidRequest``.

    Raises:
        NotAuthenticated, NotAllowed: they may not; the refusal is recorded.
        MhError: the request is no good, or nobody can answer it now.
    """
    begin = time.perf_counter()
    try:
        # Most requests ask what was asked before, and nothing has changed since.
        return database.known(_admitted, who, read, begin)
    except database.NotKnownError:
        return await database.in_database(_admitted, who, read, begin)


def _admitted(
    who: Callable[[float], Actor], read: Callable[[], _Asked], begin: float
) -> Admitted[_Asked]:
    actor = who(begin)
    require(actor, Permission.CHAT, target_type="chat")
    asked = read()
    if isinstance(asked, ChatRequest):
        return Admitted(actor, asked, _way(actor, asked.role, asked.model, begin), begin)
    return Admitted(actor, asked, _way(actor, None, asked.fields.get("model"), begin), begin)


def _way(actor: Actor, role: str | None, model: str | None, begin: float) -> Waiting:
    """Find who can answer now; a request that is worth a wait goes on with nobody."""
    chain = resolved(actor, role, model, begin)
    if not chain.found and chain.refusal is not None and chain.refusal.wait is None:
        raise chain.refusal
    request_id = _unique(actor.request_id)
    return Waiting(actor=actor, role=role, model=model, chain=chain, request_id=request_id)


async def admit_known(actor: Actor, request: ChatRequest) -> Admitted[ChatRequest]:
    """Do what ``admit`` does for a parsed request of somebody known."""
    begin = time.perf_counter()
    try:
        return database.known(_admitted_known, actor, request, begin)
    except database.NotKnownError:
        return await database.in_database(_admitted_known, actor, request, begin)


def _admitted_known(actor: Actor, request: ChatRequest, begin: float) -> Admitted[ChatRequest]:
    role, model = request.role, request.model
    require(actor, Permission.CHAT, target_type="model", target_id=role or model or "")
    return Admitted(actor, request, _way(actor, role, model, begin), begin)


def _unique(request_id: str) -> str:
    """Return an id nobody else has in flight: clients choose request ids, and choose them twice."""
    return f"{request_id[:64]}-{secrets.token_hex(6)}"
