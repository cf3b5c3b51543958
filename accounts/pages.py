"""Pages of the settings: how one is declared, who gets in, and how a refusal looks.

A page is a ``Page`` in the ``PAGES`` of its app's ``pages`` package; the admin site takes its paths and the
sidebar its entry from there. How to make one: docs/explanation/pages.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

from django.contrib import admin, messages
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts import access
from accounts.actors import Actor
from accounts.errors import MhError, NotAllowed
from accounts.models import User
from accounts.permissions import Permission, is_allowed
from accounts.requests import actor_of

P = ParamSpec("P")
#: A view of a page: the request, who asks (already let in), and what the path names.
View = Callable[Concatenate[HttpRequest, Actor, P], HttpResponse]

#: The groups of the sidebar, in their order.
SECTIONS: Final = ("System", "Models", "Records", "People")


@dataclass(frozen=True)
class Section:
    """What one room adds to a page of a room below it, which does not know of it.

    Attributes:
        page: name of the page.
        template: included there; gets what ``context`` returns as ``section``.
        context: given the request and the actor; None where there is nothing for them.
        actions: further paths, as those of a ``Page``.
    """

    page: str
    template: str
    context: Callable[[HttpRequest, Actor], dict[str, Any] | None]
    actions: tuple[tuple[str, str, Callable[..., HttpResponse]], ...] = ()


_sections: Final[list[Section]] = []


def contribute(*sections: Section) -> None:
    """Add ``sections`` to their pages: called once, when the room's app is ready."""
    _sections.extend(section for section in sections if section not in _sections)


def sections_of(page: str, request: HttpRequest, actor: Actor) -> list[dict[str, Any]]:
    """Return what other rooms add to ``page`` for whom asks: ``template`` and ``section`` of each."""
    found = [
        {"template": each.template, "section": each.context(request, actor)}
        for each in _sections
        if each.page == page
    ]
    return [each for each in found if each["section"] is not None]


@dataclass(frozen=True)
class Page:
    """One page of the settings.

    Attributes:
        name: of its URL in the namespace ``admin``, and of its test.
        title: in the sidebar, the header and the browser's tab.
        path: below ``/admin/``, with a slash at its end.
        icon: a name from Material Symbols.
        section: one of ``SECTIONS``.
        permission: what it takes to see it; those who lack it do not see it in the sidebar either.
        view: answers a GET of ``path``.
        actions: further paths below it, each with a name, the rest of the path and a view; forms without
            JavaScript POST to them.
        order: within its section.
        also_for: who else is let in, whatever their role: owners of single backends. The view then decides
            about each thing it shows.
    """

    name: str
    title: str
    path: str
    icon: str
    section: str
    permission: Permission
    view: Callable[..., HttpResponse]
    actions: tuple[tuple[str, str, Callable[..., HttpResponse]], ...] = ()
    order: int = 50
    also_for: Callable[[User], bool] | None = None

    def urls(self) -> list[URLPattern]:
        """Return the paths of the page and of its actions, each behind the same door."""
        gate = _gate(self)
        return [
            path(self.path, gate(self.view), name=self.name),
            *(
                path(f"{self.path}{rest}", gate(view), name=name)
                for name, rest, view in (*self.actions, *self._contributed)
            ),
        ]

    @property
    def _contributed(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [action for each in _sections if each.page == self.name for action in each.actions]

    def is_for(self, request: HttpRequest) -> bool:
        """Return whether the sidebar shows it to the one signed in."""
        user = request.user
        return isinstance(user, User) and self.admits(user)

    def admits(self, user: User) -> bool:
        """Return whether ``user`` gets in."""
        also = self.also_for
        return is_allowed(user, self.permission) or (also is not None and also(user))

    @property
    def url(self) -> str:
        """The path from the root of the site."""
        return reverse(f"admin:{self.name}")


def _gate(page: Page) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """Let in whom ``page`` is for; strangers sign in first, refusals are recorded and shown."""

    def gated(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @never_cache
        @wraps(view)
        def answer(request: HttpRequest, **named: Any) -> HttpResponse:
            if isinstance(request.user, AnonymousUser):
                back = request.get_full_path() if request.method == "GET" else page.url
                return redirect_to_login(back, reverse("admin:login"))
            actor = actor_of(request, "admin")
            try:
                if actor.user is None or not page.admits(actor.user):
                    access.require(actor, page.permission, target_type="page", target_id=page.name)
                return view(request, actor, **named)
            except MhError as exc:
                return refused(request, exc)

        return answer

    return gated


def shown(
    request: HttpRequest, template: str, title: str, context: dict[str, Any]
) -> TemplateResponse:
    """Return a page in the admin's frame.

    Args:
        request: what is answered.
        template: extends ``mh/page.html``.
        title: of the page.
        context: for the template; ``config`` is what its scripts get, as JSON.
    """
    frame = admin.site.each_context(request)
    return TemplateResponse(request, template, {**frame, "title": title, **context})


def refused(request: HttpRequest, error: MhError) -> HttpResponse:
    """Say in the admin's clothes why the one signed in does not get this."""
    title = "Not allowed" if isinstance(error, NotAllowed) else "That did not work"
    response = shown(request, "mh/refused.html", title, {"message": error.message})
    response.status_code = error.status
    return response


def changed(request: HttpRequest, back: str, run: Callable[[], object], done: str) -> HttpResponse:
    """Run a service for a form without JavaScript, and go back to a page with its result as a message.

    Args:
        request: what is answered.
        back: path to go to.
        run: calls the service.
        done: what is said when it went well.
    """
    try:
        run()
    except NotAllowed:
        raise
    except MhError as exc:
        messages.error(request, exc.message)
    else:
        messages.success(request, done)
    return HttpResponseRedirect(back)


def only(*methods: str) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """Return a decorator that answers 405 to other methods than these."""
    return require_http_methods(list(methods))


def in_order(pages: Iterable[Page]) -> list[Page]:
    """Return the pages as the sidebar has them."""
    return sorted(pages, key=lambda page: (SECTIONS.index(page.section), page.order, page.title))
