"""Who asks: a user, over some surface, in some request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from accounts.models import User

Surface = Literal["rest", "v1", "ollama", "websocket", "admin", "cli", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """What a client calls a request that it may send again (``accounts.request_keys``)."""

    key: str
    #: SHA-256 of what is asked: the same key with another digest is a mistake.
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Everything a permission decision and an audit event need to know about the one who asks.

    ``user`` is None for somebody not signed in, and for the system itself (``surface == "system"``).
    """

    user: "User | None"
    surface: Surface
    request_id: str = ""
    source_address: str = ""
    #: Scopes of the token used, if one was; they only ever narrow what ``user`` may do.
    scopes: tuple[str, ...] = ()
    #: Public id of that token.
    token_id: str = ""
    request_key: RequestKey | None = None

    @classmethod
    def system(cls, *, request_id: str = "") -> Self:
        """Return the actor of things nobody asked for: an engine that died, a boot, an observer."""
        return cls(user=None, surface="system", request_id=request_id)

    @property
    def is_system(self) -> bool:
        """Whether this is the site itself, which no request can claim to be."""
        return self.user is None and self.surface == "system"

    @property
    def name(self) -> str:
        """The name frozen into audit events and operations."""
        if self.user is not None:
            return self.user.get_username()
        return "system" if self.surface == "system" else "anonymous"
