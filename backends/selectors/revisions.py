"""How the options of a backend came to be what they are."""

from typing import Any

from django.db.models import QuerySet

from backends.errors import UnknownRevision
from backends.models import Backend, ConfigRevision
from backends.payloads import RevisionPayload
from backends.selectors.options import backend_options
from backends.selectors.rows import iso


def revision_get(backend: Backend, number: int) -> ConfigRevision:
    """Return one revision.

    Raises:
        UnknownRevision: there is none of this number, or it is not kept any more.
    """
    found = ConfigRevision.objects.filter(backend=backend, number=number).first()
    if found is None:
        msg = f"The options of {backend.name} have no revision {number} that is kept. The newest is {backend.revision}."
        raise UnknownRevision(msg, param="number")
    return found


def revisions(backend: Backend) -> QuerySet[ConfigRevision]:
    """Return the revisions that are kept, newest first."""
    return ConfigRevision.objects.filter(backend=backend).order_by("-number")


def revision_list(backend: Backend, limit: int = 50) -> list[ConfigRevision]:
    """Return the newest revisions."""
    return list(revisions(backend)[:limit])


def revision_payload(row: ConfigRevision) -> RevisionPayload:
    """Return a revision as clients see it."""
    return RevisionPayload(
        number=row.number,
        options=row.options,
        changes=row.changes,
        restored=row.restored,
        created_at=iso(row.created_at) or "",
        created_by=row.created_by_name,
        request_id=row.request_id,
    )


def revision_difference(backend: Backend, row: ConfigRevision) -> list[dict[str, Any]]:
    """Return what restoring ``row`` would change: ``[{"option", "before", "after"}]``, defaults said aloud."""
    now = backend_options(backend).model_dump(mode="json")
    defaults = {
        name: field.get_default()
        for name, field in type(backend_options(backend)).model_fields.items()
    }
    hidden = type(backend_options(backend)).fields_with("secret")
    found = []
    for name, value in now.items():
        default = defaults[name]
        then = row.options.get(name, list(default) if isinstance(default, tuple) else default)
        if name not in hidden and then != value:
            found.append({"option": name, "before": value, "after": then})
    return found
