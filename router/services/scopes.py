"""Whose models and roles are changed: the site's, or one's own."""

from enum import StrEnum

from accounts.actors import Actor
from accounts.errors import Invalid
from accounts.models import User
from accounts.permissions import Permission, is_allowed
from audit.access import refuse, require
from router.errors import SitesOption
from router.schemas import PINNED, ChatOptions


class Scope(StrEnum):
    """Whose."""

    SITE = "site"
    MINE = "mine"


def scope_parse(text: str | None) -> Scope | None:
    """Return the scope a request names; None where it names none.

    Raises:
        Invalid: there is no such scope.
    """
    if text is None:
        return None
    try:
        return Scope(text)
    except ValueError as exc:
        raise Invalid("scope must be site or mine.", param="scope") from exc


def scope_open(actor: Actor, wanted: Scope | None, target_type: str, target_id: str) -> Scope:
    """Return whose things ``actor`` may change: of nothing wanted, the site's where they may.

    Raises:
        NotAuthenticated, NotAllowed: they may not; the refusal is recorded.
    """
    if wanted is None:
        manages = actor.is_system or is_allowed(
            actor.user, Permission.REGISTRY_MANAGE, scopes=actor.scopes
        )
        wanted = Scope.SITE if manages else Scope.MINE
    needed = Permission.REGISTRY_MANAGE if wanted == Scope.SITE else Permission.REGISTRY_OWN
    require(actor, needed, target_type=target_type, target_id=target_id[:80])
    return wanted


def options_check(
    actor: Actor, scope: Scope, options: ChatOptions, target_type: str, target_id: str
) -> None:
    """Return where a thing of this scope may have these options.

    Raises:
        SitesOption: one of a user's own would have a model loaded again and again, for everybody else
            too; the refusal is recorded.
    """
    set_here = [name for name in PINNED if getattr(options, name) is not None]
    if scope == Scope.SITE or not set_here:
        return
    written = {"num_ctx": "numCtx", "keep_alive": "keepAlive"}[set_here[0]]
    error = SitesOption(
        f"{written} has a model loaded anew for everybody who uses it, so only the site's models and roles"
        " set it. Leave it out, or ask an owner for a model with it.",
        param=f"options.{written}",
    )
    refuse(
        error,
        actor=actor,
        permission=Permission.REGISTRY_MANAGE,
        target_type=target_type,
        target_id=target_id[:80],
    )


def person(actor: Actor) -> User:
    """Return who ``actor`` is.

    Raises:
        Invalid: the site itself has nothing of its own.
    """
    if actor.user is None:
        raise Invalid("The site itself has no models of its own; use scope site.", param="scope")
    return actor.user
