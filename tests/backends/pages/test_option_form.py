"""The form of options: made from ``Options``, checked as the engine does, and what comes of it."""

from typing import Any

import pytest
from django.http import QueryDict
from pydantic import BaseModel, Field

from backends.engines.base import GROUPS, Options, facts
from backends.engines.registry import engines
from backends.pages.option_fields import OptionField, lines_read, option_fields, shown, text_of
from backends.pages.option_form import OptionsForm


class Paint(BaseModel):
    name: str
    path: str


class Colourful(Options):
    model: str = Field("red", title="Model", json_schema_extra=facts("Model"))
    share: float = Field(0.5, gt=0, le=1, json_schema_extra=facts("Memory", unit="GiB", step=0.1))
    stages: int = Field(1, ge=1, le=64, json_schema_extra=facts("Engine", step=1, bound="gpus"))
    bright: bool = Field(default=False, json_schema_extra=facts("Paint", restart=False))
    layers: tuple[Paint, ...] = Field((), json_schema_extra=facts("Paint"))
    extra: dict[str, Any] = Field({}, json_schema_extra=facts("Paint"))
    apiKey: str | None = Field(  # noqa: N815
        None, min_length=8, json_schema_extra=facts("Network", secret=True)
    )


def values(**changes: Any) -> dict[str, Any]:
    return Colourful.model_validate(changes).model_dump(mode="json")


def sent(now: dict[str, Any] | None = None, **fields: str | list[str]) -> QueryDict:
    """What a browser sends: every field, as the form shows it, but those that are named."""
    data = QueryDict(mutable=True)
    for field in option_fields(Colourful):
        value = (now or values())[field.name]
        text = "on" if value is True else text_of(field, value)
        if field.kind in {"switch", "gpus"} and not value:
            continue
        data[f"option-{field.name}"] = text
    for name, value in fields.items():
        key = f"option-{name}"
        data.setlist(key, value if isinstance(value, list) else [value])
    return data


def form(data: QueryDict | None, now: dict[str, Any] | None = None, **more: Any) -> OptionsForm:
    given: dict[str, Any] = {"secrets_set": {"apiKey": False}, "gpus": (0, 1)} | more
    return OptionsForm(Colourful, values=now or values(), data=data, **given)


def changes(data: QueryDict, now: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    filled = form(data, now, **more)
    assert filled.is_valid(), filled.errors
    return filled.changes


def field(name: str) -> OptionField:
    return next(each for each in option_fields(Colourful) if each.name == name)


def test_groups_follow_their_order_and_an_engines_own_come_after() -> None:
    groups = list(dict.fromkeys(each.group for each in option_fields(Colourful)))
    assert groups == [*(name for name in GROUPS if name in groups), "Paint"]
    assert next(each.name for each in option_fields(Colourful)) == "model"


@pytest.mark.parametrize("name", ["vllm", "ollama"])
def test_every_option_of_an_engine_is_in_the_form_with_a_group_and_a_help_text(name: str) -> None:
    options = engines()[name].Options
    fields = option_fields(options)
    assert {each.name for each in fields} == set(options.model_fields)
    assert all(each.group in GROUPS and each.help and each.title for each in fields)
    now = options().model_dump(mode="json")
    filled = OptionsForm(options, values=now, secrets_set={}, data=QueryDict(mutable=True))
    assert {each.name for each in fields} <= set(filled.fields)


def test_a_form_that_is_sent_as_it_was_shown_changes_nothing() -> None:
    now = values(share=0.7, layers=[{"name": "a", "path": "/a"}], extra={"n": 1}, gpus=[1])
    data = sent(now, gpus=["1"])
    assert changes(data, now) == {}


def test_changed_values_are_typed_and_a_default_is_told_as_none() -> None:
    now = values(share=0.7)
    data = sent(now, share="0.5", bright="on", layers="a = /a\nb = /b", extra="n = 4\nflag")
    assert changes(data, now) == {
        "share": None,
        "bright": True,
        "layers": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}],
        "extra": {"n": 4, "flag": True},
    }


def test_an_empty_field_puts_the_default_back() -> None:
    assert changes(sent(values(share=0.7), share=""), values(share=0.7)) == {"share": None}


def test_gpus_are_ticked_and_none_ticked_is_as_many_as_needed() -> None:
    assert changes(sent(gpus=["0", "1"])) == {"gpus": [0, 1]}
    now = values(gpus=[0])
    assert changes(sent(now, gpus=[]), now) == {"gpus": None}
    assert changes(sent(gpus="0, 2"), gpus=()) == {"gpus": [0, 2]}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"share": "1.5"}, "less than or equal to 1"),
        ({"share": "0"}, "greater than 0"),
        ({"share": "much"}, "number"),
        ({"layers": "only a name"}, "name = path"),
        ({"apiKey": "short"}, "at least 8"),
    ],
)
def test_what_is_wrong_stands_at_its_field(wrong: dict[str, str], says: str) -> None:
    filled = form(sent(**wrong))
    assert not filled.is_valid()
    [name] = wrong
    assert says in str(filled.errors[name])


@pytest.mark.parametrize(("gpus", "most"), [((), 1), ((0,), 1), ((0, 1, 2), 3)])
def test_what_is_bounded_by_the_gpus_is_never_more_than_are_seen(
    gpus: tuple[int, ...], most: int
) -> None:
    assert form(None, gpus=gpus).most(field("stages")) == most
    assert not form(sent(stages=str(most + 1)), gpus=gpus).is_valid()


def test_a_configured_number_of_gpus_may_stay_although_fewer_are_seen() -> None:
    now = values(stages=4)
    assert changes(sent(now, share="0.6"), now, gpus=(0,)) == {"share": 0.6}


def test_a_secret_is_never_shown_and_is_kept_replaced_or_removed() -> None:
    was_set = {"secrets_set": {"apiKey": True}}
    assert form(None, values(apiKey="a-good-key"), **was_set)["apiKey"].value() == ""
    now = values()
    assert changes(sent(now), now, **was_set) == {}
    assert changes(sent(now, apiKey="another-key"), now, **was_set) == {"apiKey": "another-key"}
    removed = sent(now)
    removed["option-clear-apiKey"] = "on"
    assert changes(removed, now, **was_set) == {"apiKey": None}


def test_values_are_shown_in_words() -> None:
    assert shown(field("share"), 0.5) == "0.5 GiB"
    assert shown(field("bright"), True) == "on"
    assert shown(field("layers"), [{"name": "a", "path": "/a"}]) == "a = /a"
    assert shown(field("gpus"), None) == "not set"


def test_lines_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="“= x” is no line of the form name = path"):
        lines_read(field("layers"), "a = /a\n= x")
