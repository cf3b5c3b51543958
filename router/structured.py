"""Answers in a format: ``json``, or a JSON Schema. Checked before it is sent, said to engines that do not
constrain their decoding, and held against the answer at its end. Pure.

What a client sends is bounded, since it is worked with here: no reference leaves the schema, its size and
depth have limits, and so has the work a check may take. Regular expressions (``pattern``) are the engine's to
follow: one that somebody chose could keep a process busy for ever, so they are not tried here.
Source: JSON Schema, draft 2020-12.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as Mismatch
from jsonschema.exceptions import _WrappedReferencingError as UnresolvedReference
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY as SPECIFICATIONS
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from accounts.errors import InvalidRequest
from router.errors import FormatNotFollowed

Format = str | Mapping[str, Any] | None

#: Longest schema, in characters of JSON, and how deep it may be nested.
SCHEMA_MAX: Final = 32 * 1024
DEPTH_MAX: Final = 48
#: CPU seconds that one check may take.
SECONDS_MAX: Final = 1.0
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_SAID_MAX: Final = 300
#: How much of an answer is repeated to the model that gave it.
_REPEATED_MAX: Final = 32 * 1024

#: CPU time of this thread at which a check is given up.
_until: ContextVar[float] = ContextVar("until")
_Keyword = Callable[[Any, Any, Any, Any], Iterator[Mismatch] | None]


class _TooMuchError(Exception):
    """The check takes longer than it may."""


def _counted(keyword: _Keyword) -> _Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Mismatch]:
        if time.thread_time() > _until.get():
            raise _TooMuchError
        yield from keyword(validator, value, instance, schema) or ()

    return check


def _not_tried(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Mismatch]:
    del validator, value, instance, schema
    yield from ()


def _additional(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Mismatch]:
    """Check ``additionalProperties``, except beside patterns: which properties those name is not known."""
    if "patternProperties" not in schema:
        whole = Draft202012Validator.VALIDATORS["additionalProperties"]
        yield from whole(validator, value, instance, schema) or ()


_KEYWORDS: Final = {
    **Draft202012Validator.VALIDATORS,
    "pattern": _not_tried,
    "patternProperties": _not_tried,
    "unevaluatedProperties": _not_tried,
    "additionalProperties": _additional,
}
_Validator: Final = extend(
    Draft202012Validator, {name: _counted(keyword) for name, keyword in _KEYWORDS.items()}
)


def constrained(wanted: Format) -> bool:
    """Say whether ``wanted`` asks for more than text."""
    return wanted is not None and wanted != "text"


def schema_check(wanted: Format, param: str = "format") -> None:
    """Check a format before anything is asked; ``param`` is where the request has it.

    Raises:
        InvalidRequest: it is no JSON Schema, or one that is not accepted here; the message says why.
    """
    if not isinstance(wanted, Mapping):
        return
    try:
        _bounds_check(wanted)
    except InvalidRequest as exc:
        raise InvalidRequest(exc.message, code=exc.code, param=param) from None


def _bounds_check(wanted: Mapping[str, Any]) -> None:
    if _depth(wanted) > DEPTH_MAX:
        raise _refused(f"it is nested more than {DEPTH_MAX} deep")
    text = json.dumps(wanted)
    if len(text) > SCHEMA_MAX:
        raise _refused(f"it has {len(text)} characters, and {SCHEMA_MAX} are taken")
    _schema_check(text)


@functools.lru_cache(maxsize=64)
def _schema_check(text: str) -> None:
    """Check a schema, once: the same comes with each request of a program."""
    schema: dict[str, Any] = json.loads(text)
    _check_references(schema)
    if wrong := _first(_Validator(_Validator.META_SCHEMA, registry=SPECIFICATIONS), schema):
        where = ".".join(str(step) for step in wrong.absolute_path)
        raise _refused(f"{f'at {where[:120]}: ' if where else ''}{_said(wrong)}")
    probes: tuple[object, ...] = (None, {}, [], "")
    for probe in probes:
        _mismatches(schema, probe)


def _check_references(schema: Mapping[str, Any]) -> None:
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(dict(schema)))
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise _refused(f"{reference[:120]!r} refers to something outside of it")
        try:
            resolver.lookup(reference)
        except Exception:  # noqa: BLE001 - the library raises many kinds, all of which mean this
            raise _refused(f"{reference[:120]!r} refers to nothing in it") from None


def _depth(value: object) -> int:
    """Return how deep ``value`` is nested, without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        below: list[object] = []
        for item in level:
            if isinstance(item, Mapping):
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
    return deepest


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in _REFERENCES and isinstance(value, str):
                yield value
            elif key not in {"const", "enum", "default", "examples"}:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The format is no JSON Schema that can be used here: {why}.",
        code="invalid_schema",
        param="format",
    )


def problem_of(wanted: Format, answer: str) -> str:
    """Say in a few words why ``answer`` does not follow the format; empty when it does.

    Raises:
        InvalidRequest: finding that out would take too long.
    """
    if not constrained(wanted):
        return ""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError) as exc:
        return (
            f"it is not JSON ({exc.msg})"
            if isinstance(exc, json.JSONDecodeError)
            else "it is not JSON"
        )
    if isinstance(wanted, Mapping):
        return _mismatches(wanted, value)
    return "" if isinstance(value, dict) else "it is not a JSON object"


def _mismatches(schema: Mapping[str, Any], value: object) -> str:
    first = _first(_Validator(dict(schema), registry=Registry()), value)
    return "" if first is None else f"{first.json_path[:120]}: {_said(first)}"


def _first(validator: Any, value: object) -> Mismatch | None:
    """Return the first thing wrong with ``value``; within bounds of time."""
    token = _until.set(time.thread_time() + SECONDS_MAX)
    try:
        return next(validator.iter_errors(value), None)
    except (_TooMuchError, RecursionError):
        raise _refused("to check against it would take too long") from None
    except UnresolvedReference:
        raise _refused("it refers to something outside of it") from None
    finally:
        _until.reset(token)


def _said(mismatch: Mismatch) -> str:
    """Say what is wrong, without the value where that is long."""
    if len(mismatch.message) <= _SAID_MAX:
        return str(mismatch.message)
    return f"it does not follow {mismatch.validator!r}"


def instruction(wanted: Format) -> str:
    """Return what a model is told that is not constrained to the format; empty for text."""
    if not constrained(wanted):
        return ""
    begin = "Answer with one JSON value and nothing else: no words around it, no code fences."
    if isinstance(wanted, Mapping):
        return f"{begin} It must follow this JSON Schema: {json.dumps(wanted, ensure_ascii=False)}"
    return f"{begin} It must be a JSON object."


def told(messages: Sequence[Mapping[str, Any]], wanted: Format) -> Sequence[Mapping[str, Any]]:
    """Return ``messages`` with the format said in the system message, which is made where there is none."""
    note = instruction(wanted)
    if not note:
        return messages
    first = messages[0] if messages else {}
    if first.get("role") in {"system", "developer"} and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content']}\n\n{note}"}, *messages[1:]]
    return [{"role": "system", "content": note}, *messages]


def repair(answer: str, problem: str) -> list[dict[str, Any]]:
    """Return the messages that ask for the answer once more, to follow the conversation so far."""
    request = (
        f"This answer does not have the format that was asked for: {problem}. "
        "Answer again, with nothing but the corrected JSON."
    )
    return [
        {"role": "assistant", "content": answer[:_REPEATED_MAX] or "(nothing)"},
        {"role": "user", "content": request},
    ]


def unwrapped(answer: str) -> str:
    """Return what is within the one code fence that is the whole ``answer``; else ``answer``."""
    text = answer.strip()
    lines = text.splitlines()
    if len(lines) > 2 and lines[0].rstrip() in {"```", "```json"} and lines[-1] == "```":  # noqa: PLR2004
        return "\n".join(lines[1:-1])
    return answer


def not_followed(
    problem: str, reason: str = "stop", *, again: bool = False, param: str = "format"
) -> FormatNotFollowed:
    """Return the error for an answer that has this ``problem``; ``param`` is where the format was asked for."""
    if reason == "length":
        return FormatNotFollowed(
            "The answer was cut off before it had the format asked for. Allow more tokens (max_tokens).",
            param=param,
        )
    twice = ", also when asked once more" if again else ""
    return FormatNotFollowed(
        f"The model's answer does not have the format asked for{twice}: {problem}. "
        "Try again, simplify the format, or ask a model whose engine constrains its answers.",
        param=param,
    )
