"""The fields of options, of models, and of an account's settings."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from router.pages.fields import Empty, Field, Kind
from router.registry_schemas import CAPABILITIES
from router.schemas import PINNED, ChatOptions

_BROWSER_MAX: Final = 2**53
#: What people call an option, what to know of it, and whether it is shown at once.
_OPTIONS: Final = {
    "temperature": ("Temperature", "0 is the most likely word, always.", True),
    "max_tokens": ("Longest answer (tokens)", "", True),
    "top_p": ("Top p", "", True),
    "think": ("Thinking", "Of a model that can think before it answers.", True),
    "top_k": ("Top k", "-1: all", False),
    "min_p": ("Min p", "", False),
    "presence_penalty": ("Presence penalty", "", False),
    "frequency_penalty": ("Frequency penalty", "", False),
    "repetition_penalty": ("Repetition penalty", "", False),
    "seed": ("Seed", "", False),
    "stop": ("Stop at", "One text a line.", False),
    "logprobs": ("Probabilities", "", False),
    "top_logprobs": ("Probabilities of others", "", False),
    "num_ctx": ("Context (tokens)", "Of Ollama; another one loads the model again.", False),
    "keep_alive": ("Keep in memory", "Of Ollama: 5m, 1h; -1 for ever.", False),
}
_YES_NO: Final = (("", "as the engine does"), ("true", "yes"), ("false", "no"))
_THINK: Final = (*_YES_NO, *((word, word) for word in ("low", "medium", "high", "max")))

WHEN_OFF: Final = (
    ("next", "go on in the chain"),
    ("wait", "start it, and wait"),
    ("substitute", "take what the active backend serves"),
    ("error", "say so"),
)
CONTEXT: Final = (
    ("error", "refuse, and say how long it may be"),
    ("trim", "leave out the oldest messages"),
)


def option_fields(*, pinned: bool, group: str = "") -> list[Field]:
    """Return the fields of ``ChatOptions``; ``pinned`` with those that only the site's may set."""
    bounds = ChatOptions.model_json_schema(by_alias=False)["properties"]
    return [
        replace(_option(name, _numbers(bounds[name])), group=group)
        for name in _OPTIONS
        if pinned or name not in PINNED
    ]


def _option(name: str, schema: Mapping[str, Any]) -> Field:
    label, words, shown = _OPTIONS[name]
    kinds: dict[str, Kind] = {"stop": "lines", "think": "choice", "logprobs": "choice"}
    numeric: dict[str, Kind] = {"number": "number", "integer": "integer"}
    kind: Kind = kinds.get(name) or numeric.get(schema.get("type", ""), "text")
    if name == "keep_alive":
        kind = "text"
    choices = {"think": _THINK, "logprobs": _YES_NO}.get(name, ())
    return Field(
        name=f"options.{name}",
        label=label,
        kind=kind,
        help=words,
        choices=choices,
        least=_bound(kind, schema.get("minimum", schema.get("exclusiveMinimum"))),
        most=_bound(kind, schema.get("maximum")),
        more=not shown,
        placeholder="unset" if not choices else "",
    )


def _bound(kind: Kind, value: Any) -> Any:
    """Return a bound worth telling a browser, whose numbers end long before ours."""
    told = kind in {"number", "integer"} and value is not None and abs(value) < _BROWSER_MAX
    return value if told else None


def _numbers(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return of a type that may be null what is left without."""
    found: Mapping[str, Any] = next(
        (one for one in schema.get("anyOf", ()) if one.get("type") in {"number", "integer"}), schema
    )
    return found


def entry_fields(*, pinned: bool, is_new: bool, providers: list[tuple[str, str]]) -> list[Field]:
    """Return the fields of a model."""
    name = Field(
        name="id",
        label="Id",
        help="What requests and chains call it: night.coder",
        required=True,
        length=128,
        pattern=r"[A-Za-z0-9][A-Za-z0-9._\/\-]*",
        rule="Letters, digits, dots, _, / and -, the first a letter or a digit.",
    )
    return [
        *([name] if is_new else []),
        Field(name="provider", label="Provider", kind="choice", choices=providers, required=True),
        Field(
            name="model",
            label="Model",
            help="The name the provider knows it by. Empty: what it serves at the moment.",
            empty="text",
            length=512,
            suggestions="mh-models",
        ),
        Field(
            name="whenOff",
            label="While its backend is off",
            kind="choice",
            choices=WHEN_OFF,
            help="For local backends.",
        ),
        Field(name="description", label="Description", empty="text", length=512),
        Field(
            name="capabilities",
            label="What it can do",
            kind="many",
            choices=[(one, one) for one in CAPABILITIES],
            help="Nothing chosen: not known.",
        ),
        *option_fields(pinned=pinned, group="Options"),
    ]


#: So many settings of an account are shown at once.
_AT_ONCE: Final = 4


def setting_fields(schema: Mapping[str, Any], secrets: Mapping[str, bool]) -> list[Field]:
    """Return the fields of an account's settings, by the JSON Schema of its kind.

    Args:
        schema: of ``ProviderSettings``.
        secrets: the names of those that are written only, and which are set.
    """
    return [
        _setting(name, one, secrets, more=number >= _AT_ONCE)
        for number, (name, one) in enumerate(schema.get("properties", {}).items())
    ]


def _setting(
    name: str, schema: Mapping[str, Any], secrets: Mapping[str, bool], *, more: bool
) -> Field:
    kind, choices = _kind_of(schema)
    default = schema.get("default", "")
    empty: Empty = "null"
    placeholder = "" if default in ("", {}, None) else str(default)
    if name in secrets:
        kind, empty = "secret", "omit"
        placeholder = "set; empty keeps it" if secrets[name] else "not set"
    if choices:
        choices = (("", f"{default} (usual)"), *(c for c in choices if c[0] != default))
    return Field(
        name=f"settings.{name}",
        label=schema.get("title", name),
        kind=kind,
        help=schema.get("description", ""),
        choices=choices,
        empty=empty,
        least=schema.get("minimum"),
        most=schema.get("maximum"),
        length=schema.get("maxLength"),
        placeholder=placeholder,
        more=more,
    )


def _kind_of(schema: Mapping[str, Any]) -> tuple[Kind, tuple[tuple[str, str], ...]]:
    if "enum" in schema:
        return "choice", tuple((str(one), str(one)) for one in schema["enum"])
    kinds: dict[str, Kind] = {"object": "pairs", "integer": "integer", "number": "number"}
    kind: Kind = kinds.get(schema.get("type", ""), "text")
    return kind, ()
