"""The audit page: who did what, chosen by filters, with what it changed. Nothing here changes anything."""

from dataclasses import asdict
from typing import Any, Final, cast, get_args
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor, Surface
from accounts.pages import Page, only, shown
from accounts.permissions import Permission
from audit import diff, selectors
from audit.models import Category, Event, Level, Outcome

#: Events on one page.
_PAGE: Final = 50
_ANY: Final = ("", "any")
_TONES: Final = {Outcome.SUCCESS: "good", Outcome.FAILURE: "bad", Outcome.REFUSED: "warn"}
_MOMENT: Final = {"type": "datetime-local", "class": "mh-input", "step": "1"}
_SURFACES: Final = get_args(Surface)


def _select(choices: list[tuple[str, Any]]) -> forms.ChoiceField:
    widget = forms.Select(attrs={"class": "mh-input"})
    return forms.ChoiceField(choices=[_ANY, *choices], required=False, widget=widget)


def _text(**attributes: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"class": "mh-input", **attributes})
    return forms.CharField(required=False, max_length=128, widget=widget)


def _moment(label: str) -> forms.DateTimeField:
    widget = forms.DateTimeInput(attrs=_MOMENT, format="%Y-%m-%dT%H:%M:%S")
    return forms.DateTimeField(required=False, label=label, widget=widget)


class FilterForm(forms.Form):
    """What events can be chosen by; the API takes the same names."""

    q = _text(placeholder="message, event, who or what", type="search")
    category = _select(list(Category.choices))
    outcome = _select(list(Outcome.choices))
    level = _select(list(Level.choices))
    surface = _select([(name, name) for name in _SURFACES])
    actor = _text()
    target = _text()
    request_id = _text()
    since = _moment("From (UTC)")
    until = _moment("Before (UTC)")

    q.label = "Text"
    actor.label, request_id.label = "Who", "Request id"


@only("GET")
def audit(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Show the events chosen, newest first."""
    del actor
    form = FilterForm(request.GET)
    filters = cast("selectors.EventFilters", form.cleaned_data if form.is_valid() else {})
    found = [] if form.errors else _found(filters, request.GET.get("before", ""))
    chosen = {key: str(value) for key, value in request.GET.items() if value and key in form.fields}
    context = {
        "form": form,
        "filtered": bool(chosen),
        "open_filters": bool(set(chosen) - {"q"}),
        "rows": [_row(event) for event in found[:_PAGE]],
        "older": _older(chosen, found),
        "newest": "before" not in request.GET,
        "newest_url": f"?{urlencode(chosen)}",
        "export_url": f"{reverse('audit-export')}?{urlencode(chosen)}",
        "checked": asdict(selectors.chain_verify()) if request.GET.get("verify") else None,
    }
    return shown(request, "audit/audit.html", "Audit", context)


def _found(filters: selectors.EventFilters, before: str) -> list[Event]:
    """Return one more than a page of events, those older than event ``before``."""
    query = selectors.events(filters)
    if before.isdecimal():
        query = query.filter(pk__lt=int(before[:18]))
    return list(query[: _PAGE + 1])


def _older(chosen: dict[str, str], found: list[Event]) -> str:
    if len(found) <= _PAGE:
        return ""
    return f"?{urlencode({**chosen, 'before': str(found[_PAGE - 1].pk)})}"


def _row(event: Event) -> dict[str, Any]:
    changed = diff.changes(event.before, event.after)
    return {
        "event": event,
        "tone": _TONES.get(Outcome(event.outcome), "off"),
        "changes": changed,
        "has_before": event.before is not None,
    }


PAGE: Final = Page(
    name="audit",
    title="Audit",
    path="audit/",
    icon="fact_check",
    section="Records",
    permission=Permission.AUDIT_READ,
    view=audit,
    order=90,
)
PAGES: Final[tuple[Page, ...]] = (PAGE,)
