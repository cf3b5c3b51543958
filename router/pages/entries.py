"""The form of a model of the registry."""

from typing import Any

from django.http import HttpRequest, HttpResponse

from accounts.actors import Actor
from accounts.pages import shown
from router import registry_payloads as payloads
from router import services
from router.availability import Facts, facts_now
from router.models import EntryFields
from router.pages.asking import form_context, saved, scope_of
from router.pages.fields import Field, body_of, holding, posted
from router.pages.option_fields import entry_fields
from router.pages.roles import roles_url
from router.registry_schemas import EntryChange, EntryCreate
from router.resolution import ACTIVE
from router.schemas import parse
from router.services.scopes import Scope


def model(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Add a model, or change the one that ``?id=`` names; ``?from=`` begins with another one's values."""
    scope, entry_id = scope_of(request, actor), request.GET.get("id", "")
    facts = facts_now()
    site = payloads.models(None)
    fields = entry_fields(
        pinned=scope == Scope.SITE,
        is_new=not entry_id,
        providers=_providers(facts, site, scope),
    )
    before = _before(request, actor, scope, entry_id)
    around = _around(scope, entry_id, facts, site)
    if request.method != "POST":
        return _page(request, around, holding(fields, before))
    answer = saved(
        request,
        lambda: _write(actor, scope, entry_id, body_of(fields, request.POST)),
        posted(fields, request.POST),
        there=roles_url(scope, "models"),
        done=f"{entry_id or request.POST.get('id', '')} was saved.",
    )
    if isinstance(answer, HttpResponse):
        return answer
    page = _page(request, around, *answer)
    page.status_code = 422
    return page


def _around(
    scope: Scope, entry_id: str, facts: Facts, site: list[payloads.ModelPayload]
) -> dict[str, Any]:
    """Return what the page needs beside the fields."""
    return {
        "entry_id": entry_id,
        "scope": scope.value,
        "back": roles_url(scope, "models"),
        "suggestions": _suggestions(facts, site),
        "is_mine": scope == Scope.MINE,
    }


def _before(request: HttpRequest, actor: Actor, scope: Scope, entry_id: str) -> dict[str, Any]:
    """Return the values the form begins with."""
    if entry_id:
        found = payloads.model(entry_id, actor.user, scope.value)
    elif like := request.GET.get("from"):
        found = payloads.model(like, actor.user)
    else:
        return {"provider": ACTIVE, "whenOff": "next"}
    return {**found, "whenOff": found["when_off"]}


def _write(actor: Actor, scope: Scope, entry_id: str, body: dict[str, Any]) -> EntryFields:
    if entry_id:
        data = parse(EntryChange, body)
        return services.model_entry_update(actor=actor, entry_id=entry_id, data=data, scope=scope)
    return services.model_entry_create(actor=actor, data=parse(EntryCreate, body), scope=scope)


def _page(
    request: HttpRequest, around: dict[str, Any], fields: list[Field], problem: str = ""
) -> HttpResponse:
    entry_id = around["entry_id"]
    title = f"Change {entry_id}" if entry_id else "Add a model"
    context = {**form_context(fields, problem), **around}
    return shown(request, "router/model.html", title, context)


def _providers(
    facts: Facts, site: list[payloads.ModelPayload], scope: Scope
) -> list[tuple[str, str]]:
    """Return what a model can name; a user's own may name an account that one of the site's names."""
    offered = {row["provider"] for row in site}
    accounts = [name for name in facts.accounts if scope == Scope.SITE or name in offered]
    return [
        (ACTIVE, "whichever local backend is active"),
        *((name, local.title) for name, local in facts.local.items()),
        *((name, f"{name} ({facts.accounts[name].kind})") for name in accounts),
    ]


def _suggestions(facts: Facts, site: list[payloads.ModelPayload]) -> list[tuple[str, str]]:
    """Return the models known of each provider, as pairs with its name."""
    found = {(name, info.id) for name, local in facts.local.items() for info in local.models or ()}
    found |= {(name, local.serving.model) for name, local in facts.local.items() if local.serving}
    found |= {(row["provider"], row["model"]) for row in site if row["model"]}
    return sorted(found)
