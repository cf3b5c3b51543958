"""The Providers page: accounts elsewhere, what is known of them, and which roles need them."""

from dataclasses import replace
from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from accounts.actors import Actor
from accounts.errors import MhError, NotAllowed
from accounts.pages import changed, only, shown
from router import registry_payloads as payloads
from router import selectors, services
from router.models import ProviderAccount
from router.pages.asking import Question, asked_first, form_context, text_of
from router.pages.fields import Field, body_of, holding, posted, with_error
from router.pages.option_fields import setting_fields
from router.registry_reads import SERVER_MODE
from router.registry_schemas import AccountChange, AccountCreate
from router.schemas import parse

LEAD: Final = (
    "Accounts at services that run models elsewhere. Models name an account as their provider; keys are tried"
    " before they are saved, kept encrypted, and never shown again."
)


@only("GET")
def providers(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the accounts."""
    del actor
    site = payloads.models(None)
    choice = selectors.deployment()
    context = {
        "lead": LEAD,
        "accounts": [_row(account, site) for account in payloads.accounts(whole=True)],
        "kinds": payloads.kinds(),
        "is_server": choice.mode == SERVER_MODE,
        "server_account": choice.server_account,
        "backend_url": reverse("admin:llm-backend"),
        "config": {"path": "/api/providers"},
    }
    return shown(request, "router/providers.html", "Providers", context)


def _row(account: payloads.AccountPayload, site: list[payloads.ModelPayload]) -> dict[str, Any]:
    models = [row for row in site if row["provider"] == account["name"]]
    tone, word = _state(account)
    return {
        **account,
        "tone": tone,
        "word": word,
        "said": account["why_not"] or account["check"]["message"],
        "credentials": [name for name, is_set in account["secrets"].items() if is_set],
        "roles": sorted({role for row in models for role in row["roles"]}),
    }


def _state(account: payloads.AccountPayload) -> tuple[str, str]:
    """Return the tone and the word for what is known of an account."""
    if not account["ready"]:
        return "warn", "not complete"
    good = account["check"]["good"]
    if good is None:
        return "", "not tried"
    return ("good", "works") if good else ("bad", "refused")


# -- the form


def provider(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Add an account of a ``?kind=``, or change the one that ``?name=`` names; or only try it."""
    name = request.GET.get("name", "")
    fields, before, title = _form(name, request.GET.get("kind", ""))
    if request.method != "POST":
        return _page(request, name, before, title)
    try:
        row = _sent(request, actor, name, body_of(fields, request.POST, before if name else ()))
    except NotAllowed:
        raise
    except MhError as exc:
        typed, problem = with_error(posted(fields, request.POST), exc)
        page = _page(request, name, typed, title, problem=problem)
        page.status_code = exc.status
        return page
    if _only_tries(request):
        typed = posted(fields, request.POST)
        return _page(request, name, typed, title, tried=row.check_message)
    messages.success(request, f"{row.name} was saved. {row.check_message}")
    return HttpResponseRedirect(reverse("admin:providers"))


def _form(name: str, kind: str) -> tuple[list[Field], list[Field], str]:
    """Return the fields of the form, the same with what is stored, and the form's title.

    Raises:
        UnknownAccount: there is none of this name.
    """
    if name:
        account = payloads.account_named(name, whole=True)
        fields = setting_fields(account["schema"], account["secrets"])
        stored = ProviderAccount.objects.get(pk=name).settings
        return fields, _stored(fields, account, stored), f"Change {name}"
    known = {row["kind"]: row for row in payloads.kinds()}
    chosen = known.get(kind) or next(iter(known.values()))
    secrets = dict.fromkeys(chosen["secrets"], False)
    new = [
        Field(
            name="name",
            label="Name",
            help="What models call it: openrouter",
            required=True,
            length=64,
            pattern=r"[a-z0-9][a-z0-9_\-]*",
            rule="Lower-case letters, digits, _ and -, the first a letter or a digit.",
        ),
        *setting_fields(chosen["schema"], secrets),
    ]
    values = {"name": chosen["kind"]}
    return new, holding(new, values), f"Add an account: {chosen['title']}"


def _stored(
    fields: list[Field], account: payloads.AccountPayload, stored: dict[str, Any]
) -> list[Field]:
    """Return the fields with what is set; what came from the environment says so."""
    references = account["references"]
    return [
        replace(one, help=f"{one.help} Read from the environment: {references[name]}.".strip())
        if (name := one.name.removeprefix("settings.")) in references
        else one
        for one in holding(fields, {"settings": stored})
    ]


def _sent(request: HttpRequest, actor: Actor, name: str, body: dict[str, Any]) -> ProviderAccount:
    how = {"check": request.POST.get("untried") != "1", "save": not _only_tries(request)}
    if not how["save"]:
        how["check"] = True
    if name:
        data = parse(AccountChange, {"settings": body.get("settings", {}), **how})
        return services.provider_account_update(actor=actor, name=name, data=data)
    kind = text_of(request, "kind", 32)
    settings = {k: v for k, v in body.pop("settings", {}).items() if v is not None}
    create = parse(AccountCreate, {**body, "kind": kind, "settings": settings, **how})
    return services.provider_account_create(actor=actor, data=create)


def _only_tries(request: HttpRequest) -> bool:
    return request.POST.get("do") == "try"


def _page(
    request: HttpRequest,
    name: str,
    fields: list[Field],
    title: str,
    *,
    problem: str = "",
    tried: str = "",
) -> HttpResponse:
    known = [row["kind"] for row in payloads.kinds()]
    asked = request.GET.get("kind", "")
    context = {
        **form_context(fields, problem),
        "name": name,
        "kind": asked if asked in known else known[0],
        "tried": tried,
        "back": reverse("admin:providers"),
    }
    return shown(request, "router/provider.html", title, context)


# -- buttons


@only("POST")
def provider_check(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Try the stored credentials."""
    name = text_of(request, "name", 64)
    found: list[ProviderAccount] = []

    def check() -> None:
        found.append(services.provider_account_check(actor=actor, name=name))

    answer = changed(request, reverse("admin:providers"), check, f"{name} was tried.")
    for row in found:
        tell = messages.success if row.check_good else messages.warning
        tell(request, f"{name}: {row.check_message}")
    return answer


@only("POST")
def provider_delete(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Remove an account that no model names."""
    name = text_of(request, "name", 64)
    question = Question(
        title=f"Remove {name}?",
        question=f"The account {name} and its key are deleted here. The service itself hears nothing of it.",
        action="Remove it",
        back=reverse("admin:providers"),
        done=f"{name} was removed.",
    )
    return asked_first(
        request, question, lambda: services.provider_account_delete(actor=actor, name=name)
    )
