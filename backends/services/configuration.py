"""Options of backends, and the file they come from."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from accounts.actors import Actor
from accounts.permissions import Permission
from audit import access
from audit.models import Category
from audit.services import event_record
from backends import config_file, secrets, selectors
from backends.engines import registry
from backends.models import (
    Backend,
    Switchboard,
)
from backends.services import revisions
from backends.services.asking import backend_for
from backends.services.rows import status_publish


def backend_configure(
    *, actor: Actor, name: str, options: Mapping[str, Any], revision: int | None = None
) -> Backend:
    """Change options of backend ``name``; null puts one back to its default.

    Secret options are encrypted. What runs keeps running with what it was started with. A change is a new
    revision of the options.

    Args:
        actor: who asks; needs ``backends:operate``.
        name: the backend.
        options: the changes, by option.
        revision: the newest that the asker knows of; None: whatever the others did.

    Raises:
        UnknownBackend, NotAllowed, NotAuthenticated, InvalidOptions.
        ConfigurationMoved: somebody else has changed the options since ``revision``.
    """
    backend = backend_for(actor, name, "configure")
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=backend.pk)
        revisions.refuse_if_moved(backend, revision)
        before = selectors.backend_config(backend)
        changes = _options_write(actor, backend, dict(options))
        after = selectors.backend_config(backend)
        _record(actor, name, _changed(before, after), _changed(after, before), changes)
        transaction.on_commit(status_publish)
    return backend


def backend_restore(
    *, actor: Actor, name: str, number: int, revision: int | None = None
) -> Backend:
    """Put the options of backend ``name`` back to what they were at revision ``number``: a new revision.

    Secrets stay as they are, for no revision keeps any.

    Raises:
        As ``backend_configure``; UnknownRevision.
        InvalidOptions: an option of that time is not valid any more.
    """
    backend = backend_for(actor, name, "configure")
    wanted = selectors.revision_get(backend, number)
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=backend.pk)
        revisions.refuse_if_moved(backend, revision)
        before = selectors.backend_config(backend)
        gone = dict.fromkeys(backend.options.keys() - wanted.options.keys())
        changes = _options_write(actor, backend, {**gone, **wanted.options}, restored=number)
        after = selectors.backend_config(backend)
        _record(actor, name, _changed(before, after), _changed(after, before), changes)
        transaction.on_commit(status_publish)
    return backend


def _record(
    actor: Actor, name: str, before: dict[str, Any], after: dict[str, Any], changes: bool
) -> None:
    event_record(
        actor=actor,
        event="backend.configured",
        category=Category.CONFIGURATION,
        target_type="backend",
        target_id=name,
        message="" if changes else "Nothing changed.",
        before=before,
        after=after,
    )


def _options_write(
    actor: Actor, backend: Backend, changes: dict[str, Any], *, restored: int | None = None
) -> bool:
    """Put ``changes`` into the row and its revisions, and save it; return whether anything changed.

    Within a transaction that has locked the row.
    """
    before = revisions.Kept.of(backend)
    _options_set(backend, changes)
    changed = revisions.revision_add(actor, backend, before, restored=restored)
    backend.save(update_fields=["options", "secrets", "revision"])
    return changed


def _options_set(backend: Backend, changes: dict[str, Any]) -> None:
    """Put ``changes`` into the row, validated as a whole."""
    known = selectors.backend_engine(backend).Options
    hidden = known.fields_with("secret")
    own = known.own_names
    stored = {**own(backend.options), **secrets.unseal(backend.secrets), **own(changes)}
    kept = {key: value for key, value in stored.items() if value is not None}
    row = Backend(name=backend.name, engine=backend.engine, options=kept)
    selectors.backend_options(row)
    backend.options = {key: value for key, value in kept.items() if key not in hidden}
    backend.secrets = secrets.seal(
        {key: str(value) for key, value in kept.items() if key in hidden}
    )


def _changed(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what of ``one``'s options and secrets differs in ``other``."""
    return {
        part: {key: value for key, value in one[part].items() if other[part].get(key) != value}
        for part in ("options", "secrets")
    }


def options_keep(*, actor: Actor, name: str, changes: dict[str, Any]) -> None:
    """Keep the changes a start was asked for, after it succeeded; the backend becomes the active one."""
    if changes:
        backend_configure_as(actor=actor, name=name, options=changes)
    with transaction.atomic():
        board = Switchboard.objects.select_for_update().get_or_create(pk=1)[0]
        if board.active_backend_id == name:
            return
        before = board.active_backend_id
        Switchboard.objects.filter(pk=1).update(active_backend=name)
        event_record(
            actor=actor,
            event="switchboard.active_backend",
            category=Category.CONFIGURATION,
            target_type="backend",
            target_id=name,
            before={"active_backend": before},
            after={"active_backend": name},
        )
        transaction.on_commit(status_publish)


def backend_configure_as(*, actor: Actor, name: str, options: Mapping[str, Any]) -> None:
    """Change options as part of an operation whose permission was checked when it was asked for."""
    with transaction.atomic():
        backend = Backend.objects.select_for_update().get(pk=name)
        before = dict(backend.options)
        if not _options_write(actor, backend, dict(options)):
            return
        _record(actor, name, before, dict(backend.options), changes=True)
        transaction.on_commit(status_publish)


def config_import(*, actor: Actor, data: Any) -> list[str]:
    """Take over the content of ``etc/llm-backend.json``: all of it, or nothing.

    Returns:
        Sentences about what was left out: sections of engines that have no plugin here.

    Raises:
        NotAllowed, NotAuthenticated, InvalidOptions.
    """
    if actor.surface != "system":
        access.require(actor, Permission.BACKENDS_OPERATE, target_type="config")
    file = config_file.parse(data, frozenset(registry.engines()))
    left_out = []
    with transaction.atomic():
        for name, section in file.backends.items():
            backend = Backend.objects.select_for_update().filter(name=name).first()
            if backend is None:
                left_out.append(f"{name}: no plugin for this engine is installed.")
                continue
            _options_write(actor, backend, section.options)
            backend.auto_start = section.auto_start
            backend.save(update_fields=["auto_start"])
        chosen = Backend.objects.filter(name=file.active_backend).first()
        Switchboard.objects.update_or_create(
            pk=1,
            defaults={"active_backend": chosen, "startup_behavior": file.startup_behavior},
        )
        event_record(
            actor=actor,
            event="config.imported",
            category=Category.CONFIGURATION,
            target_type="config",
            target_id="llm-backend.json",
            message=" ".join(left_out),
            after=data,
        )
        transaction.on_commit(status_publish)
    return left_out


def deployment_mode_set(mode: str) -> None:
    """Say where models run, ``local`` or ``server``, as part of what the caller records."""
    board, _ = Switchboard.objects.get_or_create(pk=1)
    if board.deployment_mode != mode:
        Switchboard.objects.filter(pk=1).update(deployment_mode=mode)
        transaction.on_commit(status_publish)
