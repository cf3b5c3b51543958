"""What the database says in the form of ``etc/llm-backend.json``."""

from typing import Any

from backends.models import Backend
from backends.selectors.options import backend_options
from backends.selectors.rows import backend_list, switchboard


def config_export() -> dict[str, Any]:
    """Return the file that says what is set: options that are not the default. Secrets are left out."""
    board = switchboard()
    file: dict[str, Any] = {"version": "1.0.0"}
    if board.active_backend_id:
        file["activeBackend"] = board.active_backend_id
    file["startupBehavior"] = board.startup_behavior
    return file | {row.name: _section(row) for row in backend_list()}


def _section(row: Backend) -> dict[str, Any]:
    options = backend_options(row)
    known = type(options)
    hidden = known.fields_with("secret") | {"host", "port"}
    values = options.model_dump(mode="json")
    defaults = {name: info.get_default() for name, info in known.model_fields.items()}
    section: dict[str, Any] = {"autoStart": row.auto_start}
    if {"host", "port"} <= values.keys():
        section = {"endpoint": f"http://{values['host']}:{values['port']}", **section}
    return section | {
        known.file_names.get(name, name): value
        for name, value in values.items()
        if name not in hidden and getattr(options, name) != defaults[name]
    }
