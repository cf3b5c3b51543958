"""The operations page: what was asked of the engines, by whom, how it went, and where its time went."""

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlencode

from django import forms
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from accounts.actors import Actor
from accounts.pages import Page, only, shown
from accounts.permissions import Permission, is_allowed
from backends import selectors, timeline
from backends.cards import OPERATION_WORDS, operation_view
from backends.models import Backend, Operation, OperationKind, OperationState
from backends.selectors.history import (
    OperationFilters,
    backends_owned,
    operation_history,
    operations_took,
)
from backends.words import duration_text

#: Operations on one page, and days of the picture.
_PAGE: Final = 25
_DAYS: Final = 30
_TONES: Final[Mapping[str, str]] = {
    OperationState.QUEUED: "off",
    OperationState.RUNNING: "busy",
    OperationState.SUCCEEDED: "good",
    OperationState.FAILED: "bad",
    OperationState.ROLLED_BACK: "warn",
    OperationState.CANCELLED: "warn",
}
_INPUT: Final = {"class": "mh-input mh-input--short"}


class FilterForm(forms.Form):
    """What operations can be chosen by."""

    kind = forms.ChoiceField(
        choices=[("", "any kind"), *OperationKind.choices],
        required=False,
        widget=forms.Select(attrs={**_INPUT, "aria-label": "Kind"}),
    )
    state = forms.ChoiceField(
        choices=[("", "any outcome"), *OperationState.choices],
        required=False,
        widget=forms.Select(attrs={**_INPUT, "aria-label": "Outcome"}),
    )
    backend = forms.ChoiceField(
        required=False, widget=forms.Select(attrs={**_INPUT, "aria-label": "Backend"})
    )
    by = forms.CharField(
        required=False,
        max_length=150,
        widget=forms.TextInput(
            attrs={**_INPUT, "aria-label": "Who asked", "placeholder": "who asked"}
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = Backend.objects.order_by("name").values_list("name", flat=True)
        field = cast("forms.ChoiceField", self.fields["backend"])
        field.choices = [("", "any backend"), *((name, name) for name in names)]


@only("GET")
def operations(request: HttpRequest, actor: Actor) -> HttpResponse:
    """List the operations chosen, newest first, with the times of the last month."""
    form = FilterForm(request.GET)
    filters = cast("OperationFilters", form.cleaned_data if form.is_valid() else {})
    all_of_them = is_allowed(actor.user, Permission.BACKENDS_OPERATE)
    query = operation_history(filters, user=None if all_of_them else actor.user)
    page = Paginator(query, _PAGE).get_page(request.GET.get("page"))
    chosen = {key: value for key, value in request.GET.items() if value and key in form.fields}
    took = operations_took(_DAYS) if all_of_them else []
    titles = _titles()
    context = {
        "form": form,
        "filtered": bool(chosen),
        "rows": [_row(row, titles) for row in page.object_list],
        "pages": page,
        "query": urlencode(chosen),
        "summaries": [_summary(line, titles) for line in timeline.summaries(took)],
        "days": _DAYS,
        "config": {"took": [_point(one) for one in took], "titles": titles, "days": _DAYS},
    }
    return shown(request, "backends/operations.html", "Operations", context)


def _titles() -> dict[str, str]:
    status = selectors.status()
    return {name: entry["title"] for name, entry in status["available"].items()}


def _row(row: Operation, titles: Mapping[str, str]) -> dict[str, Any]:
    payload = cast("dict[str, Any]", selectors.operation_payload(row))
    title = titles.get(row.backend_id, row.backend_id)
    _, past = OPERATION_WORDS.get(row.kind, (row.kind, row.kind.capitalize()))
    end = row.finished_at or selectors.now()
    return {
        "operation": payload,
        "what": _what(row, past, title, titles),
        "model": payload["model"] or "",
        "tone": _TONES.get(row.state, "off"),
        "outcome": OperationState(row.state).label,
        "took": duration_text((end - row.created_at).total_seconds()),
        "created_at": row.created_at,
        "view": operation_view(payload, title),
        "bars": timeline.bars(payload, selectors.now()),
        "source": row.source_address,
        "audit_url": f"{reverse('admin:audit')}?{urlencode({'request_id': row.request_id})}",
    }


def _what(row: Operation, past: str, title: str, titles: Mapping[str, str]) -> str:
    if row.kind == OperationKind.SWITCH and row.from_backend:
        return f"{past} {titles.get(row.from_backend, row.from_backend)} → {title}"
    return f"{past} · {title}"


def _summary(line: timeline.Summary, titles: Mapping[str, str]) -> dict[str, Any]:
    _, past = OPERATION_WORDS.get(line.kind, (line.kind, line.kind.capitalize()))
    return {
        "what": f"{past} · {titles.get(line.backend, line.backend)}",
        "count": line.count,
        "failed": line.failed,
        "median": "—" if line.median is None else duration_text(line.median),
        "longest": "—" if line.longest is None else duration_text(line.longest),
    }


def _point(one: timeline.Took) -> dict[str, Any]:
    return {
        "at": one.finished_at.timestamp(),
        "seconds": round(one.seconds, 2),
        "backend": one.backend,
        "kind": one.kind,
        "succeeded": one.succeeded,
    }


PAGE: Final = Page(
    name="operations",
    title="Operations",
    path="backends/operations/",
    icon="history",
    section="Records",
    permission=Permission.BACKENDS_OPERATE,
    view=operations,
    order=10,
    also_for=backends_owned,
)
