"""What a backend was started with, kept to be compared with what it would be started with now.

Kept are the options that were set, and the secret ones as the Fernet token of ``backends.secrets``:
never in clear. Both stand in ``Backend.started_options``, the token under a name no option can have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic.fields import FieldInfo

from backends.engines.base import Engine

#: Where the token stands; option names are identifiers.
TOKEN: Final = "$secrets"  # noqa: S105
#: Stands there while a parked engine is being woken.
WAKING: Final = "$waking"
#: The option that every engine's model stands in.
MODEL: Final = "model"


def kept(options: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Return what is to be kept of a start with ``options`` and the secrets sealed in ``token``."""
    return {**options, TOKEN: token}


def options_of(started: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of what was kept, without the secret ones."""
    return {name: value for name, value in started.items() if name not in {TOKEN, WAKING}}


def token_of(started: Mapping[str, Any] | None) -> str | None:
    """Return the sealed secrets of what was kept; None where it is not known whether there were any."""
    return None if started is None else started.get(TOKEN)


class Change(StrEnum):
    """What it takes to get from what runs to what is wanted."""

    NOTHING = "nothing"
    #: The running engine loads another model.
    LOAD = "load"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Difference:
    """How what is wanted differs from what runs."""

    change: Change
    #: Names of the options that differ, whether or not they matter to what runs.
    options: tuple[str, ...] = ()


def compare(engine: Engine, runs: Any, wanted: Any) -> Difference:
    """Say what it takes to have ``wanted`` where ``runs`` runs. Pure.

    An option said as its default is the same as one not said. Options that declare ``restart: False``
    never restart; one that declares nothing does.

    Args:
        engine: the plugin; one that serves many models from one process loads another without a restart.
        runs: validated ``engine.Options`` of the start, secrets included.
        wanted: the same of what would be started.
    """
    fields = engine.Options.model_fields
    differing = [name for name in fields if getattr(runs, name) != getattr(wanted, name)]
    restarting = {name for name in differing if _restarts(fields[name])} - {MODEL}
    if restarting or (MODEL in differing and not engine.capabilities.many_models):
        change = Change.RESTART
    else:
        change = Change.LOAD if MODEL in differing else Change.NOTHING
    return Difference(change, tuple(differing))


def _restarts(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return bool(extra.get("restart", True)) if isinstance(extra, dict) else True
