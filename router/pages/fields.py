"""Fields of the settings pages' forms: the same names, values and errors as REST, also where no JavaScript runs.

A field is called by its path in the body (``options.temperature``), which is also what an error's ``param``
says: so an error finds its field, whoever sent it. ``mh/form.js`` makes the same body of the same form.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from django.http import QueryDict

from accounts.errors import MhError

#: text, number and integer; one choice and many; a password; lines of text; lines of ``name = value``.
Kind = Literal["text", "number", "integer", "choice", "many", "secret", "lines", "pairs"]
#: What an empty field means: nothing is sent, null, or an empty text.
Empty = Literal["omit", "null", "text"]
_MISSING: Final = object()
_WORDS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a form."""

    #: Where its value stands in the body.
    name: str
    label: str
    kind: Kind = "text"
    help: str = ""
    choices: Sequence[tuple[str, str]] = ()
    empty: Empty = "omit"
    required: bool = False
    #: Bounds and step of a number; longest text.
    least: float | None = None
    most: float | None = None
    length: int | None = None
    #: What a text must look like, for the browser, and the same in words.
    pattern: str = ""
    rule: str = ""
    #: What holds where it is empty.
    placeholder: str = ""
    #: Id of a list of suggestions.
    suggestions: str = ""
    #: Folded away at first.
    more: bool = False
    #: The heading it stands under.
    group: str = ""
    #: What it holds, as text; for ``many`` the chosen ones.
    value: str = ""
    chosen: Sequence[str] = field(default=())
    error: str = ""

    @property
    def step(self) -> str:
        """The ``step`` of a number's input."""
        return "1" if self.kind == "integer" else "any"

    def holding(self, value: Any) -> Self:
        """Return the field with a value of a body in it."""
        if self.kind == "many":
            return replace(self, chosen=[str(one) for one in value or ()])
        return replace(self, value=_text(self.kind, value))


def _text(kind: Kind, value: Any) -> str:
    if value is None or kind == "secret":
        return ""
    if kind == "pairs":
        return "\n".join(f"{name} = {one}" for name, one in dict(value).items())
    if kind == "lines":
        return value if isinstance(value, str) else "\n".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def holding(fields: Iterable[Field], body: Mapping[str, Any]) -> list[Field]:
    """Return the fields with the values of ``body``."""
    return [one.holding(_at(body, one.name)) for one in fields]


def _at(body: Mapping[str, Any], name: str) -> Any:
    value: Any = body
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def posted(fields: Iterable[Field], given: QueryDict) -> list[Field]:
    """Return the fields with what was typed into them; secrets are not written back."""
    return [
        replace(one, chosen=given.getlist(one.name))
        if one.kind == "many"
        else replace(one, value="" if one.kind == "secret" else given.get(one.name, ""))
        for one in fields
    ]


def body_of(
    fields: Iterable[Field], given: QueryDict, before: Iterable[Field] = ()
) -> dict[str, Any]:
    """Return the body that REST would get, without what is as it was ``before``.

    What is no number stays a text, for the schema to say so.
    """
    known = {one.name: one for one in before}
    body: dict[str, Any] = {}
    for one in fields:
        *parents, last = one.name.split(".")
        place = body
        for parent in parents:
            place = place.setdefault(parent, {})
        if one.name in known and _is_same(known[one.name], given):
            continue
        value = _value(one, given)
        if value is not _MISSING:
            place[last] = value
    return body


def _is_same(one: Field, given: QueryDict) -> bool:
    if one.kind == "many":
        return list(one.chosen) == given.getlist(one.name)
    return one.kind != "secret" and one.value == given.get(one.name, "").replace("\r\n", "\n")


def _value(one: Field, given: QueryDict) -> Any:
    if one.kind == "many":
        return given.getlist(one.name)
    text = given.get(one.name, "").replace("\r\n", "\n")
    text = text if one.kind == "secret" else text.strip()
    if not text:
        return {"omit": _MISSING, "null": None, "text": ""}[one.empty]
    return _READ.get(one.kind, str)(text)


def _number(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pairs(text: str) -> dict[str, str]:
    cut = (line.partition("=") for line in _lines(text))
    return {name.strip(): value.strip() for name, _, value in cut}


_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "number": _number,
    "integer": _number,
    "choice": lambda text: _WORDS.get(text, text),
    "lines": _lines,
    "pairs": _pairs,
}


def with_error(fields: Iterable[Field], error: MhError) -> tuple[list[Field], str]:
    """Return the fields, the one at fault with the error's sentence; and the sentence where none is."""
    listed = list(fields)
    param = error.param or ""
    at = next((n for n, one in enumerate(listed) if _is_about(param, one.name)), None)
    if at is None:
        return listed, error.message
    listed[at] = replace(listed[at], error=error.message, more=False)
    return listed, ""


def _is_about(param: str, name: str) -> bool:
    return param == name or param.startswith((f"{name}.", f"{name}["))
