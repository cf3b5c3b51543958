"""Letting a request in: who asks, may they, what, and who answers, in one visit to the database."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from accounts import database
from accounts.actors import Actor
from accounts.ids import unique_hex
from accounts.permissions import Permission
from audit.access import require
from router import usage
from router.holding import Waiting, resolved
from router.images import images_check
from router.openai_translation import CHAT_PATH, format_asked
from router.providers.openai_compatible import EMBEDDINGS_PATH, encode
from router.schemas import ChatRequest, unpinned
from router.selectors import Resolved
from router.structured import Format, constrained, schema_check

#: Options that only a chat has.
_FOR_CHATS: Final = ("think", "logprobs", "top_logprobs")
#: Other names clients have for an option.
_SAME: Final[Mapping[str, tuple[str, ...]]] = {
    "max_tokens": ("max_completion_tokens",),
    "think": ("reasoning_effort", "chat_template_kwargs"),
}


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """A request of OpenAI's API, to be passed on with as little change as can be."""

    path: str
    #: What the client sent, and what it parses to.
    body: bytes
    fields: Mapping[str, Any]

    @property
    def format(self) -> Format:
        """The format the answer must have; None where any will do."""
        if self.path != CHAT_PATH or self.fields.get("response_format") is None:
            return None
        return format_asked(self.fields)

    def for_route(self, found: Resolved) -> bytes:
        """Return the body for the engine: the client's own bytes where nothing has to change."""
        fields = unpinned(self.fields)
        defaults = {
            name: value
            for name, value in found.provider.options(self._defaults(found.route.options)).items()
            if fields.get(name) is None
        }
        same = len(fields) == len(self.fields) and fields.get("model") == found.route.model
        if same and not defaults:
            return self.body
        return encode({**fields, **defaults, "model": found.route.model})

    def _defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of the registry that have a place in this request, and no rival there."""
        if self.path == EMBEDDINGS_PATH:
            return {}
        left_out = set(() if self.path == CHAT_PATH else _FOR_CHATS)
        for ours, theirs in _SAME.items():
            if any(self.fields.get(name) is not None for name in theirs):
                left_out.add(ours)
        return {name: value for name, value in options.items() if name not in left_out}


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


def asked_check(asked: ChatRequest | OpenAICall) -> None:
    """Check what schemas cannot say: images, and the format an answer shall have.

    Raises:
        InvalidRequest, TooLarge: one of them is not acceptable.
    """
    if isinstance(asked, OpenAICall):
        if asked.path == CHAT_PATH:
            images_check(asked.fields["messages"])
            _format_check(asked.format, "response_format")
        return
    images_check(
        message.model_dump() if isinstance(message.content, list) else {}
        for message in asked.messages
    )
    _format_check(asked.format, "format")


def _format_check(wanted: Format, param: str) -> None:
    if constrained(wanted):
        # A schema may take a while to check, and everybody's tokens would wait: that is for a thread.
        database.reading()
        schema_check(wanted, param)


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
    with usage.admission(actor=actor, kind="chat", begin=begin):
        usage.admit(actor.user)
        asked = read()
        asked_check(asked)
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
    with usage.admission(actor=actor, kind="chat", begin=begin):
        usage.admit(actor.user)
        asked_check(request)
        return Admitted(actor, request, _way(actor, role, model, begin), begin)


def _unique(request_id: str) -> str:
    """Return an id nobody else has in flight: clients choose request ids, and choose them twice."""
    return f"{request_id[:64]}-{unique_hex(48)}"
