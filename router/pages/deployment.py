"""What the router adds to the LLM Backend page: whether models run here or on a server."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor
from accounts.pages import Section, changed, only
from accounts.permissions import Permission, is_allowed
from router import selectors, services

_PAGE = "llm-backend"


def _context(request: HttpRequest, actor: Actor) -> dict[str, Any] | None:
    del request
    if not is_allowed(actor.user, Permission.REGISTRY_MANAGE):
        return None
    now = selectors.deployment()
    accounts = selectors.provider_accounts()
    return {
        "mode": now.mode,
        "server_account": now.server_account,
        "accounts": [{"name": each.name, "kind": each.kind} for each in accounts],
    }


@only("POST")
def deployment_save(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Save where models run: what the form does."""
    return changed(
        request,
        f"{reverse(f'admin:{_PAGE}')}#deployment",
        lambda: services.deployment_set(
            actor=actor,
            mode=request.POST.get("mode"),
            server_account=request.POST.get("server_account"),
        ),
        "Where models run is saved.",
    )


SECTION = Section(
    page=_PAGE,
    template="router/_deployment.html",
    context=_context,
    actions=(("llm-backend-deployment", "deployment/", deployment_save),),
)
