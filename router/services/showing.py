"""What a name stands for, and what serves now: reads for clients who look before they ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from accounts import database
from accounts.actors import Actor
from accounts.permissions import Permission
from audit.access import require
from backends import selectors as backends
from router import selectors
from router.errors import NoRoute
from router.providers.base import Capabilities

#: What a backend's options may call the length of its context, in tokens.
_CONTEXT: Final = ("maxModelLen", "contextLength")


@dataclass(frozen=True, slots=True)
class Shown:
    """One name ``model`` may have."""

    name: str
    #: The backend that answers; empty where none does now.
    owner: str
    #: By Ollama's words: completion, tools, vision, embedding, thinking.
    capabilities: Sequence[str] = ("completion",)
    #: Tokens; 0 where nobody knows.
    context_length: int = 0


async def model_show(*, who: Callable[[], Actor], read: Callable[[], str]) -> Shown:
    """Return what a name stands for.

    Args:
        who: says who asks; may raise ``NotAuthenticated``.
        read: says the name, once it is known that they may ask.

    Raises:
        NotAuthenticated, NotAllowed: they may not chat.
        UnknownRoute: nothing has this name.
    """
    return await database.in_database(_show, who, read)


def _show(who: Callable[[], Actor], read: Callable[[], str]) -> Shown:
    actor = who()
    require(actor, Permission.CHAT, target_type="model")
    name = read()
    try:
        found = selectors.resolved(model=name, user=actor.user)
    except NoRoute:
        return Shown(name, "")
    able = _able(found.provider.capabilities)
    return Shown(
        name, found.route.backend or found.route.provider, able, _context(found.target.options)
    )


def _able(protocol: Capabilities) -> list[str]:
    words = {
        "tools": protocol.tools,
        "vision": protocol.images,
        "embedding": protocol.embeddings,
    }
    return ["completion", *(word for word, has in words.items() if has)]


def _context(options: Any) -> int:
    found = (getattr(options, name, None) for name in _CONTEXT)
    return next((value for value in found if isinstance(value, int)), 0)


async def models_loaded(*, who: Callable[[], Actor]) -> list[Shown]:
    """Return what serves now.

    Raises:
        NotAuthenticated, NotAllowed: they may not chat.
    """
    return await database.in_database(_loaded, who)


def _loaded(who: Callable[[], Actor]) -> list[Shown]:
    require(who(), Permission.CHAT, target_type="path", target_id="/ollama/api/ps")
    return [
        Shown(name, found.backend, context_length=_context(found.target.options))
        for found in backends.serving_targets()
        for name in (found.target.served_model, *found.also)
        if name
    ]
