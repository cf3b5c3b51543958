"""What a form has to know of each option of an engine: read from the JSON Schema of its ``Options``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from backends.engines.base import GROUPS, Options

#: ``switch`` on or off; ``choice`` of a few; ``number``; ``text``; ``model`` of the inventory, or any; ``gpus``
#: of this machine; ``lines`` of ``name = value``.
Kind = Literal["switch", "choice", "number", "text", "model", "gpus", "lines"]

#: Where an option stands that says no heading.
OTHER: Final = "Further options"
#: Groups that are unfolded at first.
OPEN: Final = frozenset({"Model", "Memory"})
_TYPES: Final[dict[str, Kind]] = {
    "boolean": "switch",
    "integer": "number",
    "number": "number",
    "object": "lines",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionField:
    """One option, for a form."""

    name: str
    title: str
    help: str
    group: str
    kind: Kind
    unit: str = ""
    restart: bool = True
    secret: bool = False
    #: Whether empty is a value of its own; else empty is the default.
    nullable: bool = False
    #: As JSON has it.
    default: Any = None
    #: Values of a choice.
    choices: tuple[Any, ...] = ()
    #: Words that a text may be beside what it usually is: ``auto`` for a number.
    words: tuple[str, ...] = ()
    whole: bool = False
    minimum: float | None = None
    maximum: float | None = None
    #: Whether the minimum itself is too little.
    above: bool = False
    #: Of a slider; None where none is of use.
    step: float | None = None
    bound: str = ""
    #: Of lines: a list of objects with these two keys; empty: one object.
    pair: tuple[str, ...] = ()


def option_fields(options: type[Options]) -> tuple[OptionField, ...]:
    """Return every option, in the order of the form: by group, then as they are declared."""
    schema = options.model_json_schema()
    own = [name for name in options.model_fields if name not in Options.model_fields]
    names = [*own, *(name for name in options.model_fields if name not in own)]
    found = [
        _field(name, schema["properties"][name], schema.get("$defs", {}), options) for name in names
    ]
    return tuple(sorted(found, key=lambda field: _place(field.group)))


def _place(group: str) -> tuple[int, str]:
    return (GROUPS.index(group), "") if group in GROUPS else (len(GROUPS), group)


def _field(
    name: str, said: Mapping[str, Any], definitions: Mapping[str, Any], options: type[Options]
) -> OptionField:
    parts = [_resolved(part, definitions) for part in said.get("anyOf", [said])]
    nullable = any(part.get("type") == "null" for part in parts)
    parts = [part for part in parts if part.get("type") != "null"]
    main = parts[0] if parts else {}
    words = tuple(str(part["const"]) for part in parts[1:] if "const" in part)
    kind = _kind(name, main, words)
    default = options.model_fields[name].get_default(call_default_factory=True)
    return OptionField(
        name=name,
        title=said.get("title") or name,
        help=said.get("description", ""),
        group=said.get("group", OTHER),
        kind="choice" if kind == "switch" and nullable else kind,
        unit=said.get("unit", ""),
        restart=said.get("restart", True),
        secret=bool(said.get("secret")),
        nullable=nullable,
        default=json.loads(json.dumps(default, default=str)),
        choices=_choices(main, kind, nullable=nullable),
        words=words,
        whole=main.get("type") == "integer",
        minimum=main.get("minimum", main.get("exclusiveMinimum")),
        maximum=main.get("maximum", main.get("exclusiveMaximum")),
        above="exclusiveMinimum" in main,
        step=said.get("step"),
        bound=said.get("bound", ""),
        pair=_pair(main, definitions),
    )


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    ref = part.get("$ref")
    return definitions[ref.removeprefix("#/$defs/")] if ref else part


def _kind(name: str, main: Mapping[str, Any], words: Sequence[str]) -> Kind:
    if name == "model":
        return "model"
    if name == "gpus":
        return "gpus"
    if "enum" in main or "const" in main:
        return "choice"
    if main.get("type") == "array":
        return "lines"
    return "text" if words else _TYPES.get(str(main.get("type")), "text")


def _choices(main: Mapping[str, Any], kind: Kind, *, nullable: bool) -> tuple[Any, ...]:
    if kind == "switch":
        return (True, False) if nullable else ()
    return tuple(main.get("enum", [main["const"]] if "const" in main else []))


def _pair(main: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[str, ...]:
    if main.get("type") != "array":
        return ()
    return tuple(_resolved(main.get("items", {}), definitions).get("properties", {}))[:2]


def text_of(field: OptionField, value: Any) -> str:
    """Return a value as a form shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if field.kind == "lines":
        return "\n".join(_lines(field, value))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lines(field: OptionField, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name} = {_word(each)}" for name, each in value.items()]
    if len(field.pair) == 2:  # noqa: PLR2004
        first, second = field.pair
        return [f"{each[first]} = {each[second]}" for each in value]
    return [_word(each) for each in value]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def shown(field: OptionField, value: Any) -> str:
    """Return a value for a person to read in a sentence or a list of changes."""
    if value is None or value in ([], {}, ""):
        return "automatic" if field.nullable and field.kind == "choice" else "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = text_of(field, value).replace("\n", ", ")
    return f"{text} {field.unit}".strip()


def lines_read(field: OptionField, text: str) -> Any:
    """Return what lines of ``name = value`` say.

    Raises:
        ValueError: a line is none; the message names it.
    """
    found: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, equals, value = (part.strip() for part in line.partition("="))
        if field.pair and not (equals and name and value):
            msg = f"“{line[:60]}” is no line of the form {' = '.join(field.pair)}."
            raise ValueError(msg)
        found.append((name, value if equals else "true"))
    if field.pair:
        return [dict(zip(field.pair, each, strict=True)) for each in found] or None
    return {name: _value(value) for name, value in found} or None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
