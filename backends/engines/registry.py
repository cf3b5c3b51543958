"""Which engine plugins there are: ours, and those of installed packages."""

import functools
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

import structlog

from backends.engines.base import Capabilities, Engine, Options
from backends.errors import UnknownBackend

GROUP: Final = "metahuman.engines"
#: Ours, known even where the project's own metadata is not installed.
BUILT_IN: Final = (
    EntryPoint(name="ollama", value="backends.engines.ollama:OllamaEngine", group=GROUP),
    EntryPoint(name="vllm", value="backends.engines.vllm:VllmEngine", group=GROUP),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")

log = structlog.get_logger(__name__)


@functools.cache
def engines() -> Mapping[str, Engine]:
    """Return every working plugin by name, loaded once; a broken one is logged and left out."""
    found: dict[str, Engine] = {}
    for point in _entry_points():
        engine = _load(point)
        if engine is not None:
            found[engine.name] = engine
    return MappingProxyType(found)


def engine(name: str) -> Engine:
    """Return the plugin called ``name``; raises ``UnknownBackend``."""
    try:
        return engines()[name]
    except KeyError:
        known = ", ".join(sorted(engines())) or "none"
        raise UnknownBackend(f"There is no backend “{name[:80]}”. There are: {known}.") from None


def _entry_points() -> Iterable[EntryPoint]:
    """Ours first; a package that takes a name already taken is logged and left out."""
    points = {point.name: point for point in BUILT_IN}
    for point in entry_points(group=GROUP):
        known = points.setdefault(point.name, point)
        if known.value != point.value:
            _skip(point, f"the name is taken by {known.value}")
    return points.values()


def _load(point: EntryPoint) -> Engine | None:
    try:
        plugin = point.load()
        problem = _problem(plugin, point.name)
        made = None if problem else plugin()
    except (Exception, SystemExit) as error:  # noqa: BLE001 — somebody else's code, run at import
        _skip(point, f"{type(error).__name__}: {error}")
        return None
    if problem:
        _skip(point, problem)
        return None
    assert isinstance(made, Engine)  # noqa: S101 — for the type checker
    return made


def _skip(point: EntryPoint, reason: str) -> None:
    log.error("engine plugin skipped", plugin=point.name, value=point.value, reason=reason)


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
