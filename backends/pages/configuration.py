"""The part of the LLM Backend page where options are changed: the form, its plan, and its history."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from django.forms import BoundField
from django.http import HttpRequest
from django.urls import reverse

from accounts.errors import MhError
from backends import selectors
from backends.models import Backend, ConfigRevision
from backends.pages import option_fields
from backends.pages.option_fields import OptionField
from backends.pages.option_form import CLEAR, OptionsForm, choices_of

#: What a plan's verdict is called.
VERDICTS: Final = {
    "fits": "Fits",
    "fits_after_release": "Fits once others give way",
    "does_not_fit": "Does not fit",
    "unknown": "Cannot be said",
}
#: Revisions on the page.
REVISIONS: Final = 20


def form_of(backend: Backend, gpus: Iterable[int], data: Any = None, **values: Any) -> OptionsForm:
    """Return the form of a backend's options.

    Args:
        backend: whose.
        gpus: numbers of the GPUs that are seen.
        data: what was sent, if anything was.
        values: ``at``: options by name instead of those of now.
    """
    config = selectors.backend_config(backend)
    return OptionsForm(
        selectors.backend_engine(backend).Options,
        values=values.get("at", config["options"]),
        secrets_set=config["secrets"],
        gpus=tuple(gpus),
        data=data,
    )


def values_at(backend: Backend, number: int | None) -> dict[str, Any] | None:
    """Return the options as they were at a revision, defaults said aloud; None where it is not kept."""
    if number is None:
        return None
    with contextlib.suppress(MhError):
        kept = selectors.revision_get(backend, number).options
        row = Backend(name=backend.name, engine=backend.engine, options=kept)
        return dict(selectors.backend_config(row)["options"])
    return None


def context_of(
    backend: Backend, form: OptionsForm, *, moved: Mapping[str, Any] | None = None, plan: bool
) -> dict[str, Any]:
    """Return what the template of this part needs.

    Args:
        backend: whose options.
        form: theirs, filled in or not.
        moved: what somebody else changed while this form was filled in.
        plan: whether to work out the plan of what is configured, for a page without JavaScript.
    """
    engine = selectors.backend_engine(backend)
    running = selectors.backend_is_running(backend)
    rows = selectors.revision_list(backend, REVISIONS)
    return {
        "name": backend.name,
        "title": engine.title,
        "revision": backend.revision,
        "form": form,
        "groups": _groups(form),
        "models": _models(backend),
        "moved": moved,
        "running": running,
        "pending": _pending(backend, form) if running else [],
        "revisions": [_revision(backend, form, row) for row in rows],
        "plan": _plan(backend) if plan else None,
        "save_url": reverse("admin:llm-backend-configure", args=[backend.name]),
    }


def config_of(backend: Backend, form: OptionsForm) -> dict[str, Any]:
    """Return what the page's script needs of this part."""
    return {
        "backend": backend.name,
        "title": selectors.backend_engine(backend).title,
        "revision": backend.revision,
        "values": selectors.backend_config(backend)["options"],
        "secrets": dict(form.secrets_set),
        "fields": [asdict(field) | {"most": form.most(field)} for field in form.described],
        "models": _models(backend),
        "titles": {
            row.name: selectors.backend_engine(row).title for row in selectors.backend_list()
        },
        "verdicts": VERDICTS,
    }


# --- fields -------------------------------------------------------------------------------------------


def _groups(form: OptionsForm) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for field in form.described:
        groups.setdefault(field.group, []).append(_shown(form, field))
    return [
        {
            "title": title,
            "slug": title.lower().replace(" ", "-"),
            "fields": fields,
            "set": sum(not field["is_default"] for field in fields),
            "open": title in option_fields.OPEN or any(field["bound"].errors for field in fields),
        }
        for title, fields in groups.items()
    ]


def _shown(form: OptionsForm, field: OptionField) -> dict[str, Any]:
    """Return one option for the template."""
    bound: BoundField = form[field.name]
    is_set = form.secrets_set.get(field.name, False)
    least = field.minimum
    return {
        "about": field,
        "bound": bound,
        "id": f"option-{field.name}",
        "value": bound.value(),
        "checked": bound.value() is True or bound.value() == "on",
        "choices": choices_of(field),
        "gpus": _gpu_choices(form, bound) if field.kind == "gpus" else [],
        "least": field.step if field.above and field.step else least,
        "most": form.most(field),
        "slider": field.step is not None and form.most(field) not in {None, least},
        "default": option_fields.shown(field, field.default),
        "is_set": is_set,
        "is_default": not is_set if field.secret else form.values.get(field.name) == field.default,
        "clear": form[CLEAR + field.name] if field.secret and is_set else None,
    }


def _gpu_choices(form: OptionsForm, bound: BoundField) -> list[dict[str, Any]]:
    chosen = {str(each) for each in bound.value() or ()}
    return [
        {"number": number, "checked": str(number) in chosen, "seen": number in form.gpus}
        for number in form.gpus_offered
    ]


def _models(backend: Backend) -> list[dict[str, Any]]:
    """Return the models on the disk; one that cannot be read offers none."""
    with contextlib.suppress(MhError, OSError):
        return [
            {
                "id": model.id,
                "size": model.size_bytes,
                "quantization": model.quantization,
                "context": model.context_length,
                "problem": model.problem,
            }
            for model in selectors.backend_models(backend.name)
        ]
    return []


# --- what is not so yet, and what was -----------------------------------------------------------------


def _pending(backend: Backend, form: OptionsForm) -> list[str]:
    """Return the titles of options that are configured and are not what runs."""
    if backend.attached or backend.started_options is None:
        return []
    with contextlib.suppress(MhError):
        differing = selectors.backend_difference(backend, selectors.backend_options(backend))
        return [
            field.title
            for field in form.described
            if field.restart and field.name in differing.options
        ]
    return []


def _revision(backend: Backend, form: OptionsForm, row: ConfigRevision) -> dict[str, Any]:
    fields = {field.name: field for field in form.described}
    newest = row.number == backend.revision
    return {
        "number": row.number,
        "at": row.created_at,
        "by": row.created_by_name,
        "restored": row.restored,
        "newest": newest,
        "changes": [_change(fields.get(change["option"]), change) for change in row.changes],
        "restoring": []
        if newest
        else [
            _change(fields.get(change["option"]), change)
            for change in selectors.revision_difference(backend, row)
        ],
        "url": reverse("admin:llm-backend-restore", args=[backend.name, row.number]),
    }


def _change(field: OptionField | None, change: Mapping[str, Any]) -> dict[str, Any]:
    """Return one changed option in words; of a secret only what became of it."""
    if change.get("secret"):
        before, after = ("set" if change[when] else "not set" for when in ("before", "after"))
        after = "replaced" if change["before"] and change["after"] else after
    elif field is None:
        before, after = str(change["before"]), str(change["after"])
    else:
        before, after = (option_fields.shown(field, change[when]) for when in ("before", "after"))
    return {
        "option": change["option"],
        "title": field.title if field else change["option"],
        "before": before,
        "after": after,
        "restart": field.restart if field else False,
    }


def changes_since(backend: Backend, form: OptionsForm, number: int) -> dict[str, Any]:
    """Return who changed what after revision ``number``, for a notice."""
    fields = {field.name: field for field in form.described}
    rows = [row for row in selectors.revision_list(backend, REVISIONS) if row.number > number]
    return {
        "by": sorted({row.created_by_name for row in rows if row.created_by_name}),
        "changes": [
            _change(fields.get(change["option"]), change)
            for row in reversed(rows)
            for change in row.changes
        ],
    }


def _plan(backend: Backend) -> dict[str, Any]:
    found = selectors.backend_plan_or_problems(backend.name)
    return found.payload() | {"word": VERDICTS[found.verdict]}


def chosen_of(request: HttpRequest, names: list[str]) -> str:
    """Return the backend whose options are shown: the one asked for, else the active one, else the first."""
    asked = request.GET.get("backend", "")
    if asked in names:
        return asked
    active = selectors.active_backend()
    return active.name if active and active.name in names else next(iter(names), "")
