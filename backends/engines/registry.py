"""Which engine plugins there are: ours, and those of installed packages."""

import functools
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Final

from backends.engines.base import Capabilities, Engine, Options
from backends.errors import UnknownBackend
from backends.plugins import plugins

GROUP: Final = "metahuman.engines"
#: Ours, known even where the project's own metadata is not installed.
BUILT_IN: Final = (
    EntryPoint(name="ollama", value="backends.engines.ollama:OllamaEngine", group=GROUP),
    EntryPoint(name="vllm", value="backends.engines.vllm:VllmEngine", group=GROUP),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")


@functools.cache
def engines() -> Mapping[str, Engine]:
    """Return every working plugin by name, loaded once; a broken one is logged and left out."""
    return plugins(BUILT_IN, _problem, Engine)  # type: ignore[type-abstract]


def engine(name: str) -> Engine:
    """Return the plugin called ``name``; raises ``UnknownBackend``."""
    try:
        return engines()[name]
    except KeyError:
        known = ", ".join(sorted(engines())) or "none"
        raise UnknownBackend(f"There is no backend “{name[:80]}”. There are: {known}.") from None


def _problem(plugin: object, name: str) -> str:
    """Say why ``plugin`` cannot be used as an engine; empty when it can."""
    if not (isinstance(plugin, type) and issubclass(plugin, Engine)):
        return "it is not a subclass of backends.engines.base.Engine"
    missing = sorted(plugin.__abstractmethods__)
    if missing:
        return f"it lacks {', '.join(missing)}"
    if getattr(plugin, "name", None) != name:
        return f"it calls itself {getattr(plugin, 'name', None)!r}"
    if not _NAME.fullmatch(name):
        return "its name must be lower-case letters, digits, - and _"
    return _problem_of_declarations(plugin)


def _problem_of_declarations(plugin: type[Engine]) -> str:
    if not isinstance(getattr(plugin, "title", None), str):
        return "it has no title"
    if not isinstance(plugin.capabilities, Capabilities):
        return "its capabilities are not a Capabilities"
    options = getattr(plugin, "Options", None)
    if not (isinstance(options, type) and issubclass(options, Options)):
        return "its Options are not a subclass of backends.engines.base.Options"
    try:
        options()
        options.model_json_schema()
    except Exception as error:  # noqa: BLE001 — pydantic raises many kinds for a bad model
        return f"its Options do not work: {' '.join(str(error).split())}"
    return ""
