"""Revisions of a backend's options: each change is one, written with the options themselves."""

from dataclasses import dataclass
from typing import Any, Final

from accounts.actors import Actor
from backends import secrets, selectors
from backends.errors import ConfigurationMoved, InvalidOptions
from backends.models import Backend, ConfigRevision

#: Revisions that are kept of each backend; older ones go.
KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Kept:
    """The options of a backend as its row has them."""

    options: dict[str, Any]
    #: In clear, and only as long as it takes to compare them; None: they cannot be read.
    secrets: dict[str, str] | None

    @classmethod
    def of(cls, backend: Backend) -> "Kept":
        """Return those of a row."""
        try:
            found = secrets.unseal(backend.secrets)
        except InvalidOptions:
            found = None
        return cls(options=dict(backend.options), secrets=found)


def refuse_if_moved(backend: Backend, revision: int | None) -> None:
    """Raise ``ConfigurationMoved`` where the options of ``backend`` are newer than ``revision``."""
    if revision is None or revision == backend.revision:
        return
    newest = backend.revisions.first()
    who = f" by {newest.created_by_name}" if newest and newest.created_by_name else ""
    msg = (
        f"The options of {backend.name} were changed{who} meanwhile: they are at revision {backend.revision}, "
        f"and yours began at {revision}. Read them again, or send revision {backend.revision} to change them "
        "all the same."
    )
    raise ConfigurationMoved(msg, param="revision")


def revision_add(
    actor: Actor, backend: Backend, before: Kept, *, restored: int | None = None
) -> bool:
    """Write the row's options as a new revision, unless they are what they were; return whether they changed.

    The row is the caller's to save, within the transaction that has locked it.
    """
    after = Kept.of(backend)
    changes = _changes(backend, before, after)
    if not changes:
        return False
    if not backend.revisions.exists():
        backend.revisions.create(
            number=backend.revision, options=before.options, created_at=selectors.now()
        )
    backend.revision += 1
    backend.revisions.create(
        number=backend.revision,
        options=after.options,
        changes=changes,
        restored=restored,
        created_at=selectors.now(),
        created_by=actor.user,
        created_by_name=actor.name,
        request_id=actor.request_id,
    )
    ConfigRevision.objects.filter(backend=backend, number__lte=backend.revision - KEPT).delete()
    return True


def _changes(backend: Backend, before: Kept, after: Kept) -> list[dict[str, Any]]:
    """Return what differs, defaults said aloud; of secrets only that they do."""
    fields = selectors.backend_engine(backend).Options.model_fields

    def value(kept: Kept, name: str) -> Any:
        return kept.options[name] if name in kept.options else _default(fields.get(name))

    names = [name for name in fields if name in before.options or name in after.options]
    gone = [name for name in before.options if name not in fields]
    found = [
        {"option": name, "before": value(before, name), "after": value(after, name)}
        for name in (*names, *gone)
        if value(before, name) != value(after, name)
    ]
    old, new = before.secrets or {}, after.secrets or {}
    return found + [
        {"option": name, "secret": True, "before": name in old, "after": name in new}
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _default(field: Any) -> Any:
    """Return a field's default as JSON has it."""
    default = field.get_default() if field is not None else None
    return list(default) if isinstance(default, tuple) else default
