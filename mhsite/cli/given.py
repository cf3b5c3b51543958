"""What people write on a command line, read. Imports nothing that needs Django."""

import json
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
