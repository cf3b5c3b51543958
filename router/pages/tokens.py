"""The Tokens page: bearer tokens for programs, shown once, and ended here."""

from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from accounts import selectors, services
from accounts.access import require
from accounts.actors import Actor
from accounts.errors import Invalid, MhError, NotAllowed
from accounts.models import Token, User
from accounts.pages import only, shown
from accounts.permissions import GRANTS, Permission, is_allowed
from router.pages.asking import Question, asked_first, form_context, text_of
from router.pages.fields import Field, holding, posted, with_error

LEAD: Final = (
    "A token is a password for one program: it is sent as Authorization: Bearer, does what its user may, and is"
    " shown once."
)
#: Rows of the page; the rest are found by user, and over REST.
ROWS_MAX: Final = 500
_DAYS: Final = (("30", "30 days"), ("90", "90 days"), ("365", "a year"), ("never", "never"))
_SCOPES: Final = {
    Permission.STATUS_READ: "see the status",
    Permission.CHAT: "chat",
    Permission.TOKENS_OWN: "make and revoke tokens",
    Permission.REGISTRY_OWN: "change their own roles and models",
    Permission.REGISTRY_MANAGE: "change the site's roles, models and providers",
    Permission.BACKENDS_OPERATE: "start, stop and switch engines",
    Permission.LOGS_READ: "read engines' logs",
    Permission.AUDIT_READ: "read the audit",
    Permission.USERS_MANAGE: "see and manage users",
}


def tokens(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show tokens; a POST makes one, and the answer is the only place that shows it."""
    fields = _fields(actor)
    if request.method != "POST":
        return _page(request, actor, holding(fields, {"expires_days": "365"}))
    try:
        token, plain = _create(request, actor)
    except NotAllowed:
        raise
    except MhError as exc:
        typed, problem = with_error(posted(fields, request.POST), exc)
        page = _page(request, actor, typed, problem=problem)
        page.status_code = exc.status
        return page
    return _page(
        request, actor, holding(fields, {"expires_days": "365"}), plain=plain, made=token.name
    )


def _create(request: HttpRequest, actor: Actor) -> tuple[Token, str]:
    given = request.POST
    name = text_of(request, "name", 200)
    return services.token_create(
        actor=actor,
        user=_user(actor, given.get("user", "")),
        name=name,
        expires_days=_days(given.get("expires_days", "365")),
        scopes=given.getlist("scopes"),
    )


def _days(text: str) -> int | None:
    if text == "never":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 4:  # noqa: PLR2004 - the most is 3650
        raise Invalid("Choose when it expires.", param="expires_days")
    return int(text)


def _user(actor: Actor, username: str) -> User:
    if actor.user is None or (username and username != actor.user.get_username()):
        require(actor, Permission.USERS_MANAGE, target_type="user", target_id=username[:128])
        return selectors.user_get(username)
    return actor.user


def _manages(actor: Actor) -> bool:
    return is_allowed(actor.user, Permission.USERS_MANAGE, scopes=actor.scopes)


def _fields(actor: Actor) -> list[Field]:
    may = GRANTS[actor.user.role] if actor.user else frozenset()
    scopes = [(one.value, f"{_SCOPES[one]} ({one.value})") for one in Permission if one in may]
    everybody = [(name, name) for name in selectors.usernames()] if _manages(actor) else []
    own = actor.user.get_username() if actor.user else ""
    whose = Field(
        name="user",
        label="Whose",
        kind="choice",
        choices=[(own, f"{own} (you)"), *((n, n) for n, _ in everybody if n != own)],
    )
    return [
        Field(
            name="name",
            label="Name",
            help="What it is for: the program, the machine.",
            required=True,
            length=100,
        ),
        Field(name="expires_days", label="Expires after", kind="choice", choices=_DAYS),
        *([whose] if everybody else []),
        Field(
            name="scopes",
            label="Limited to",
            kind="many",
            choices=scopes,
            help="Nothing chosen: all its user may.",
        ),
    ]


def _page(
    request: HttpRequest, actor: Actor, fields: list[Field], problem: str = "", **made: Any
) -> HttpResponse:
    whose = request.GET.get("user", "")
    found = selectors.tokens(actor=actor, username=whose or None)
    context = {
        "lead": LEAD,
        **form_context(fields, problem),
        "tokens": list(found[:ROWS_MAX]),
        "now": timezone.now(),
        "manages": _manages(actor),
        "users": selectors.usernames() if _manages(actor) else [],
        "whose": whose,
        "config": {"path": "/api/tokens"},
        **made,
    }
    return shown(request, "router/tokens.html", "Tokens", context)


@only("POST")
def token_revoke(request: HttpRequest, actor: Actor) -> HttpResponse:
    """End a token."""
    public_id = text_of(request, "id", 64)
    question = Question(
        title="Revoke a token?",
        question=f"What uses the token {public_id} is refused from its next request on.",
        action="Revoke it",
        back=reverse("admin:tokens"),
        done=f"{public_id} was revoked.",
    )
    return asked_first(
        request, question, lambda: services.token_revoke(actor=actor, public_id=public_id)
    )
