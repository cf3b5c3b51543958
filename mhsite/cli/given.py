"""What people write on a command line, read. Imports nothing that needs Django."""

import json
from collections.abc import Sequence
from typing import Any

import typer


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """Return the JSON object that was written; an empty one where nothing was.

    Raises:
        BadParameter: it is something else.
    """
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint=option) from exc
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint=option)
    return value


def settings_given(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Return what was written as ``NAME=VALUE``; a value that is a JSON object or list is read as one.

    Raises:
        BadParameter: it is something else.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            msg = f"{pair[:40]!r} is not NAME=VALUE"
            raise typer.BadParameter(msg, param_hint=option)
        found[name] = _value(value, option)
    return found


def _value(text: str, option: str) -> Any:
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"not JSON: {exc}", param_hint=option) from exc
