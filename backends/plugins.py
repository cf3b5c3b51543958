"""Loading plug-ins: ours, and those that installed packages register as entry points."""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TypeVar, cast

import structlog

log = structlog.get_logger(__name__)

_Plugin = TypeVar("_Plugin")


def plugins(
    built_in: Iterable[EntryPoint], problem: Callable[[object, str], str], kind: type[_Plugin]
) -> Mapping[str, _Plugin]:
    """Return an instance of every working plug-in by name; a broken one is logged and left out.

    Args:
        built_in: ours, known even where the project's own metadata is not installed; all of one group.
            A package that takes the name of one of them is left out.
        problem: says why what a name stands for cannot be used; empty when it can.
        kind: what the plug-ins are instances of.
    """
    found: dict[str, _Plugin] = {}
    for point in _points(built_in):
        plugin = _load(point, problem)
        if isinstance(plugin, kind):
            found[point.name] = plugin
    return MappingProxyType(found)


def _points(built_in: Iterable[EntryPoint]) -> Iterable[EntryPoint]:
    points = {point.name: point for point in built_in}
    groups = {point.group for point in points.values()}
    for point in (point for group in groups for point in entry_points(group=group)):
        known = points.setdefault(point.name, point)
        if known.value != point.value:
            _skip(point, f"the name is taken by {known.value}")
    return points.values()


def _load(point: EntryPoint, problem: Callable[[object, str], str]) -> object:
    try:
        plugin = point.load()
        reason = problem(plugin, point.name)
        made = None if reason else cast("Callable[[], object]", plugin)()
    except (Exception, SystemExit) as error:  # noqa: BLE001 — somebody else's code, run at import
        _skip(point, f"{type(error).__name__}: {error}")
        return None
    if reason:
        _skip(point, reason)
    return made


def _skip(point: EntryPoint, reason: str) -> None:
    log.error(
        "plugin skipped",
        group=point.group,
        plugin=point.name,
        value=point.value,
        reason=reason,
    )
