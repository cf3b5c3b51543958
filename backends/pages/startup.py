"""The parts of the LLM Backend page about what happens by itself, and about what is not there yet."""

from collections.abc import Mapping
from typing import Any, Final

from django.http import QueryDict

from accounts.actors import Actor
from accounts.permissions import Permission, is_allowed
from backends import choice, selectors, services
from backends.models import Backend

_RULES: Final = {
    choice.AUTO: "Whichever runs; else whichever is installed, vLLM before Ollama.",
    choice.FALLBACK: "The active one; where it is not there, or its start fails, the next.",
}


def startup_context(actor: Actor, rows: list[Backend]) -> dict[str, Any] | None:
    """Return the form of what happens when the site comes up; None for who may not say."""
    if not is_allowed(actor.user, Permission.BACKENDS_OPERATE):
        return None
    now = selectors.startup()
    titles = {row.name: selectors.backend_engine(row).title for row in rows}
    ways = [
        (choice.AUTO, "Automatic", _RULES[choice.AUTO]),
        *((name, title, f"{title}, whatever else runs.") for name, title in titles.items()),
        (choice.FALLBACK, "With fallback", _RULES[choice.FALLBACK]),
    ]
    return {
        "ways": [
            {"value": value, "title": title, "help": text, "chosen": value == now["behavior"]}
            for value, title, text in ways
        ],
        "auto_start": [
            {"name": name, "title": title, "on": now["auto_start"].get(name, False)}
            for name, title in titles.items()
        ],
    }


def startup_save(actor: Actor, data: QueryDict) -> None:
    """Take over what the form says; a box that is not ticked is off.

    Raises:
        As ``services.startup_set``.
    """
    names = [row.name for row in selectors.backend_list()]
    wanted = set(data.getlist("auto_start"))
    services.startup_set(
        actor=actor,
        behavior=data.get("behavior") or None,
        auto_start={name: name in wanted for name in (*names, *sorted(wanted - set(names)))},
    )


def first_run(
    status: Mapping[str, Any], rows: list[Backend], *, may_install: bool
) -> dict[str, Any] | None:
    """Return what to say where no engine is there; None where one is installed, or answers."""
    available = status["available"]
    if not rows or any(entry["installed"] or entry["running"] for entry in available.values()):
        return None
    return {
        "engines": [engine_missing(row, available[row.name]) for row in rows],
        "may_install": may_install,
    }


def engine_missing(row: Backend, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return where an engine was looked for, and how to get it."""
    engine = selectors.backend_engine(row)
    return {
        "name": row.name,
        "title": engine.title,
        "installing": entry["installing"] is not None,
        "reason": entry["reason"],
        "looked_for": engine.looked_for(),
        "endpoint": entry["endpoint"],
        "installs_itself": engine.installs_itself,
        "install_command": engine.install_command,
    }
