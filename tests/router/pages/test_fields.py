"""Forms make the body that REST takes, and put its errors where they belong."""

from typing import Any

import pytest
from django.http import QueryDict

from accounts.errors import Invalid
from router.pages.fields import Field, body_of, holding, with_error
from router.pages.option_fields import option_fields, setting_fields
from router.registry_payloads import kinds
from router.schemas import ChatOptions, parse


def typed(**values: str) -> QueryDict:
    query = QueryDict(mutable=True)
    for name, value in values.items():
        query[name.replace("__", ".")] = value
    return query


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("text", " x ", "x"),
        ("integer", "7", 7),
        ("number", "0.5", 0.5),
        ("number", "0", 0),
        ("number", "many", "many"),
        ("choice", "true", True),
        ("choice", "low", "low"),
        ("secret", " s ", " s "),
        ("lines", "a\r\n\r\n b ", ["a", "b"]),
        ("pairs", "m = e\nx/y=z", {"m": "e", "x/y": "z"}),
    ],
)
def test_what_is_typed_becomes_a_value_of_json(kind: Any, text: str, value: Any) -> None:
    field = Field(name="options.it", label="It", kind=kind)
    assert body_of([field], typed(options__it=text)) == {"options": {"it": value}}


@pytest.mark.parametrize(
    ("empty", "body"), [("omit", {}), ("null", {"it": None}), ("text", {"it": ""})]
)
def test_an_empty_field_says_nothing_null_or_an_empty_text(empty: Any, body: Any) -> None:
    assert body_of([Field(name="it", label="It", empty=empty)], typed(it=" ")) == body


def test_only_what_differs_from_before_is_sent_but_a_secret_always() -> None:
    fields = [
        Field(name="settings.a", label="A", empty="null"),
        Field(name="settings.b", label="B", empty="null"),
        Field(name="settings.k", label="K", kind="secret"),
    ]
    before = holding(fields, {"settings": {"a": "1", "b": "2", "k": "3"}})
    assert [one.value for one in before] == ["1", "2", ""]
    sent = body_of(fields, typed(settings__a="1", settings__b="", settings__k="new"), before)
    assert sent == {"settings": {"b": None, "k": "new"}}


def test_every_option_is_in_the_form_and_comes_back_as_it_was() -> None:
    options = {
        "temperature": 0.0, "max_tokens": 9, "top_p": 0.5, "think": "low", "top_k": -1, "min_p": 0.1,
        "presence_penalty": -1.0, "frequency_penalty": 1.0, "repetition_penalty": 1.1, "seed": 5,
        "stop": ["a", "b"], "logprobs": False, "top_logprobs": 3, "num_ctx": 4096, "keep_alive": "5m",
    }  # fmt: skip
    assert set(options) == set(ChatOptions.model_fields)
    fields = holding(option_fields(pinned=True), {"options": options})
    query = typed(**{one.name.replace(".", "__"): one.value for one in fields})
    assert parse(ChatOptions, body_of(fields, query)["options"]).given() == options


def test_users_are_not_offered_what_a_model_is_loaded_with() -> None:
    names = {one.name for one in option_fields(pinned=False)}
    assert not names & {"options.num_ctx", "options.keep_alive"}


def test_an_error_finds_the_field_it_is_about() -> None:
    fields = [Field(name="stop", label="Stop"), Field(name="options.top_p", label="P", more=True)]
    found, rest = with_error(fields, Invalid("too high", param="options.top_p"))
    assert (found[1].error, found[1].more, rest) == ("too high", False, "")
    found, rest = with_error(fields, Invalid("one is bad", param="stop[2]"))
    assert found[0].error == "one is bad"
    assert with_error(fields, Invalid("no", param="chain[0]"))[1] == "no"


def test_every_setting_of_every_kind_of_account_has_a_field_and_secrets_are_write_only() -> None:
    for kind in kinds():
        fields = setting_fields(kind["schema"], dict.fromkeys(kind["secrets"], True))
        assert {f"settings.{name}" for name in kind["schema"]["properties"]} == {
            one.name for one in fields
        }
        secrets = {one.name for one in fields if one.kind == "secret"}
        assert secrets == {f"settings.{name}" for name in kind["secrets"]}
        filled = holding(fields, {"settings": dict.fromkeys(kind["secrets"], "sk-hidden")})
        assert not any("sk-hidden" in one.value for one in filled)
