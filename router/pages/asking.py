"""What the pages' forms have in common: a question before what cannot be taken back, and errors at fields."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from accounts.actors import Actor
from accounts.errors import Invalid, MhError, NotAllowed
from accounts.pages import changed, shown
from accounts.permissions import Permission, is_allowed
from router.pages.fields import Field, with_error
from router.services.scopes import Scope, scope_parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked before something is deleted."""

    title: str
    question: str
    #: The word on the button.
    action: str
    #: Where to go, whatever is answered.
    back: str
    #: What is said when it was done.
    done: str


def asked_first(
    request: HttpRequest, question: Question, run: Callable[[], object]
) -> HttpResponse:
    """Run a service once somebody has confirmed it: in a dialog of the page, or on a page of its own."""
    if request.POST.get("confirmed") == "1":
        return changed(request, question.back, run, question.done)
    sent = [
        (name, value)
        for name in request.POST
        for value in request.POST.getlist(name)
        if name != "csrfmiddlewaretoken"
    ]
    context = {
        "question": question.question,
        "action": question.action,
        "back": question.back,
        "sent": sent,
    }
    return shown(request, "router/confirm.html", question.title, context)


def form_context(fields: Sequence[Field], problem: str = "", prefix: str = "f-") -> dict[str, Any]:
    """Return what ``router/_fields.html`` needs."""
    more = [one for one in fields if one.more]
    return {
        "fields": fields,
        "problem": problem,
        "prefix": prefix,
        "more": bool(more),
        "more_open": any(one.value or one.chosen for one in more),
    }


def saved(
    request: HttpRequest,
    run: Callable[[], object],
    fields: Sequence[Field],
    *,
    there: str,
    done: str,
) -> HttpResponse | tuple[list[Field], str]:
    """Run a service, say ``done`` and go ``there``; or return the fields with its error.

    Returns:
        An answer; or the fields, the one at fault with what is wrong, and that sentence where none is.

    Raises:
        NotAllowed: they may not, which is no matter of a field.
    """
    try:
        run()
    except NotAllowed:
        raise
    except MhError as exc:
        return with_error(fields, exc)
    messages.success(request, done)
    return HttpResponseRedirect(there)


def manages(actor: Actor) -> bool:
    """Return whether ``actor`` may change the site's models and roles."""
    return is_allowed(actor.user, Permission.REGISTRY_MANAGE, scopes=actor.scopes)


def scope_of(request: HttpRequest, actor: Actor) -> Scope:
    """Return whose things a page is about: the site's for who manages it and does not ask for their own.

    Raises:
        Invalid: there is no such scope.
    """
    if not manages(actor):
        return Scope.MINE
    wanted = scope_parse(request.POST.get("scope") or request.GET.get("scope"))
    return Scope.SITE if wanted is None else wanted


def text_of(request: HttpRequest, name: str, most: int = 512) -> str:
    """Return a text of a form.

    Raises:
        Invalid: it is too long, or cannot be stored.
    """
    text = request.POST.get(name, "").strip()
    if "\0" in text or len(text) > most:
        msg = f"{name} is a text of at most {most} characters."
        raise Invalid(msg, param=name)
    return text
