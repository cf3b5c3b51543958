"""The three files of settings: checked, read into the database, written from it, compared with it.

Django must be set up.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.db import transaction

from accounts.actors import Actor
from accounts.errors import InvalidRequest, MhError
from accounts.masking import MASK

#: In the order they are read: models name backends and accounts.
NAMES: Final = ("llm-backend.json", "deployment.json", "models.json")


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not the same in a file and in the database; None: not there."""

    file: str
    #: Where it stands: ``models.default.persona.options``.
    path: str
    in_file: Any
    in_database: Any


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        InvalidRequest: it holds something else, or cannot be read.
    """
    try:
        data = json.loads(path.read_text())
    except ValueError as exc:
        raise InvalidRequest(f"{path} is not JSON: {exc}", code="invalid_file") from exc
    except OSError as exc:
        raise InvalidRequest(f"{path} cannot be read: {exc.strerror}.", code="no_file") from exc
    if not isinstance(data, dict):
        raise InvalidRequest(f"{path} must hold a JSON object.", code="invalid_file")
    return data


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files of settings there are in ``folder``, or the one file it is, by name.

    Raises:
        InvalidRequest: there is none, or a file of another name.
    """
    if folder.is_file():
        if folder.name not in NAMES:
            msg = f"{folder.name} is none of {', '.join(NAMES)}."
            raise InvalidRequest(msg, code="no_file")
        return {folder.name: folder}
    found = {name: folder / name for name in NAMES if (folder / name).exists()}
    if not found:
        msg = f"There is none of {', '.join(NAMES)} in {folder}."
        raise InvalidRequest(msg, code="no_file")
    return found


def settings_import(actor: Actor, files: Mapping[str, Path]) -> list[str]:
    """Read ``files`` into the database: all of them, or nothing. Return sentences about what was left out.

    Raises:
        MhError: a file is refused; the message names it and the key.
    """
    left_out: list[str] = []
    with transaction.atomic():
        for name, path in files.items():
            with _named(name):
                answer = _importers()[name](actor=actor, data=read_json(path))
            if isinstance(answer, list):
                left_out += answer
    return left_out


def settings_check(actor: Actor, files: Mapping[str, Path]) -> dict[str, str]:
    """Say of each file what is wrong with it; empty where nothing is. Changes nothing.

    References to the environment are followed, so that what an import would miss is told.
    """
    found = {}
    for name, path in files.items():
        try:
            with transaction.atomic():
                _importers()[name](actor=actor, data=read_json(path))
                transaction.set_rollback(True)
            found[name] = ""
        except MhError as exc:
            found[name] = exc.message
    return found


def settings_export() -> dict[str, dict[str, Any]]:
    """Return what the database says in the form of each file. Secrets are references, or masked, or left out."""
    from backends.selectors import config_export
    from router.registry_files import deployment_export, registry_export

    found = {
        "llm-backend.json": config_export(),
        "deployment.json": deployment_export(),
        "models.json": registry_export(),
    }
    return {name: {"$schema": f"./schemas/{name}", **data} for name, data in found.items()}


def settings_write(folder: Path) -> list[Path]:
    """Write the files into ``folder``; each is whole or not there. Return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in settings_export().items():
        path, part = folder / name, folder / f".{name}.part"
        part.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        part.replace(path)
        written.append(path)
    return written


def settings_difference(actor: Actor, files: Mapping[str, Path]) -> list[Difference]:
    """Return what would change if ``files`` were read in.

    Each file is read in, written out again, and taken back: what it leaves to defaults is no difference.

    Raises:
        MhError: a file is refused.
    """
    from router.registry_files import secrets_stored

    before, hidden_before = settings_export(), secrets_stored()
    with transaction.atomic():
        settings_import(actor, files)
        after, hidden_after = settings_export(), secrets_stored()
        transaction.set_rollback(True)
    changed = [
        Difference("deployment.json", f"{account}.{name}", "another secret", MASK)
        for (account, name), value in hidden_after.items()
        if hidden_before.get((account, name), value) != value
    ]
    return changed + [
        difference
        for name in files
        for difference in _differences(name, (), after[name], before[name])
    ]


def _differences(file: str, path: tuple[str, ...], wanted: Any, there: Any) -> list[Difference]:
    if isinstance(wanted, dict) and isinstance(there, dict):
        return [
            difference
            for key in dict.fromkeys([*wanted, *there])
            for difference in _differences(file, (*path, key), wanted.get(key), there.get(key))
        ]
    return [] if wanted == there else [Difference(file, ".".join(path), wanted, there)]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the file's name before an error's sentence."""
    try:
        yield
    except MhError as exc:
        if name not in exc.message:
            exc.message = f"{name}: {exc.message}"
        raise


def _importers() -> dict[str, Callable[..., object]]:
    """Return what takes each file."""
    from backends.services import config_import
    from router.services import deployment_import, registry_import

    return {
        "llm-backend.json": config_import,
        "deployment.json": deployment_import,
        "models.json": registry_import,
    }
