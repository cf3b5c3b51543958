"""The Roles page: which models answer for a role, in which order, and whether they can."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor
from accounts.errors import Conflict
from accounts.pages import only, shown
from accounts.permissions import Permission, is_allowed
from router import registry_payloads as payloads
from router import services
from router.availability import AvailabilityPayload, facts_now, payload_of
from router.pages.asking import Question, asked_first, form_context, manages, saved, scope_of
from router.pages.asking import text_of as text
from router.pages.chains import chain_changed
from router.pages.fields import Field, body_of, holding, posted
from router.pages.option_fields import CONTEXT, option_fields
from router.registry_reads import site_role_names
from router.registry_schemas import RoleFile
from router.resolution import ACTIVE, Entry
from router.schemas import parse
from router.services.scopes import Scope

LEAD: Final = (
    "Applications ask for a role and never need to know which model answers. A role is a chain of models: the"
    " first that can answer does."
)
#: Fields of a role's form, and what is wrong with the whole; by the role's name.
_Typed = Mapping[str, tuple[Sequence[Field], str]]


def roles_url(scope: Scope, fragment: str = "") -> str:
    """Return the page's address, with whose things it shows."""
    query = urlencode({"scope": scope.value})
    return f"{reverse('admin:roles')}?{query}{'#' if fragment else ''}{fragment}"


@only("GET")
def roles(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show every role with its chain, and every model."""
    return roles_page(request, actor, scope_of(request, actor))


def roles_page(
    request: HttpRequest, actor: Actor, scope: Scope, typed: _Typed | None = None, **more: Any
) -> HttpResponse:
    """Show the page; a form that was refused as it was typed."""
    models = _models(actor, scope)
    by_id = {row["id"]: row for row in models}
    rows = _roles(actor, scope)
    own = {row["name"] for row in payloads.roles(actor.user, "mine")}
    theirs = own if scope == Scope.MINE else site_role_names()
    context = {
        "lead": LEAD,
        "scope": scope.value,
        "manages": manages(actor),
        "may_chat": is_allowed(actor.user, Permission.CHAT, scopes=actor.scopes),
        "roles": [_card(row, by_id, scope, theirs, typed or {}) for row in rows],
        "own": own,
        "models": models,
        "config": {
            "scope": scope.value,
            "own": sorted(own),
            "models": {
                row["id"]: {name: row[name] for name in ("provider", "model", "availability")}
                for row in models
            },
        },
        **more,
    }
    return shown(request, "router/roles.html", "Roles", context)


def _roles(actor: Actor, scope: Scope) -> list[payloads.RolePayload]:
    return payloads.roles(actor.user, "site" if scope == Scope.SITE else None)


def _models(actor: Actor, scope: Scope) -> list[payloads.ModelPayload]:
    return payloads.models(actor.user, "site" if scope == Scope.SITE else None)


def _card(
    row: payloads.RolePayload,
    models: Mapping[str, payloads.ModelPayload],
    scope: Scope,
    theirs: set[str],
    typed: _Typed,
) -> dict[str, Any]:
    """Return what the page shows of a role; ``theirs`` are those for which something is set."""
    fields, problem = typed.get(row["name"], (holding(role_fields(scope), dict(row)), ""))
    last = len(row["chain"]) - 1
    return {
        "name": row["name"],
        "whose": row["scope"],
        "is_set": row["name"] in theirs,
        "links": [
            {**models[one], "first": place == 0, "last": place == last}
            for place, one in enumerate(row["chain"])
            if one in models
        ],
        "free": [one for one in models if one not in row["chain"]],
        "state": _state(row),
        "summary": _summary(row),
        **form_context(fields, problem, prefix=f"{row['name']}-"),
        "open": bool(problem) or any(field.error for field in fields),
    }


def _state(row: payloads.RolePayload) -> AvailabilityPayload:
    """Return whether one of the chain can answer; where none can, what the first says."""
    if not row["links"]:
        return payload_of(Entry(ACTIVE, ACTIVE), facts_now())
    states = [link["availability"] for link in row["links"]]
    return next((one for one in states if one["state"] == "available"), states[0])


def _summary(row: payloads.RolePayload) -> str:
    said = [f"{name} {value}" for name, value in row["options"].items()]
    return " · ".join([*said, *(["trims"] if row["context"] == "trim" else [])])


def role_fields(scope: Scope) -> list[Field]:
    """Return the fields of a role, beside its chain."""
    context = Field(
        name="context",
        label="A conversation that is too long",
        kind="choice",
        choices=CONTEXT,
    )
    return [context, *option_fields(pinned=scope == Scope.SITE)]


@only("POST")
def role_change(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Save a role's form; a button in its chain moves, adds or removes a model and saves at once."""
    scope, name = scope_of(request, actor), text(request, "name", 64)
    do, _, which = request.POST.get("do", "save").partition(":")
    if do == "unset":
        return _unset(request, actor, scope, name)
    which = which or text(request, "add", 128)
    chain = chain_changed(request.POST.getlist("chain"), do, which)
    fields = role_fields(scope)
    answer = saved(
        request,
        lambda: services.role_set(
            actor=actor,
            name=name,
            scope=scope,
            data=parse(RoleFile, {"chain": chain, **body_of(fields, request.POST)}),
        ),
        posted(fields, request.POST),
        there=roles_url(scope, f"role-{name}"),
        done=f"{name} was saved.",
    )
    if isinstance(answer, HttpResponse):
        return answer
    page = roles_page(request, actor, scope, {name: answer})
    page.status_code = 422
    return page


def _unset(request: HttpRequest, actor: Actor, scope: Scope, name: str) -> HttpResponse:
    mine = scope == Scope.MINE
    then = "the site's answers for you again" if mine else "the active backend answers for it"
    question = Question(
        title=f"Forget {name}?",
        question=f"What {'you have' if mine else 'is'} set for {name} is forgotten; then {then}.",
        action="Forget it",
        back=roles_url(scope, f"role-{name}"),
        done=f"{name} is as it was before anything was set.",
    )
    return asked_first(
        request, question, lambda: services.role_unset(actor=actor, name=name, scope=scope)
    )


@only("POST")
def role_add(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Add a role without a chain, which the active backend answers for until it has one."""
    scope, name = scope_of(request, actor), text(request, "name", 64)

    def add() -> None:
        if any(row["name"] == name for row in _roles(actor, scope)):
            raise Conflict(f"There is a role {name} already.", param="name")
        services.role_set(actor=actor, name=name, data=RoleFile(chain=[]), scope=scope)

    field = Field(name="name", label="Name")
    answer = saved(
        request,
        add,
        [field],
        there=roles_url(scope, f"role-{name}"),
        done=f"{name} was added. Give it models.",
    )
    if isinstance(answer, HttpResponse):
        return answer
    fields, problem = answer
    page = roles_page(request, actor, scope, new_name=name, new_error=problem or fields[0].error)
    page.status_code = 422
    return page


@only("POST")
def model_delete(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Delete a model that no role needs."""
    scope, entry_id = scope_of(request, actor), text(request, "id", 128)
    question = Question(
        title=f"Delete {entry_id}?",
        question=f"The model {entry_id} is deleted from the registry; its files stay where they are.",
        action="Delete it",
        back=roles_url(scope, "models"),
        done=f"{entry_id} was deleted.",
    )
    return asked_first(
        request,
        question,
        lambda: services.model_entry_delete(actor=actor, entry_id=entry_id, scope=scope),
    )
