"""Formats: what is accepted, what an answer has to be, what models are told."""

import json
from typing import Any

import pytest

from accounts.errors import InvalidRequest
from router.structured import (
    SCHEMA_MAX,
    instruction,
    not_followed,
    problem_of,
    repair,
    schema_check,
    told,
    unwrapped,
)

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "people": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string"}},
}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def bomb(depth: int) -> dict[str, Any]:
    """Twice as much work with each level."""
    steps: dict[str, Any] = {}
    for level in range(depth):
        again = {"$ref": f"#/$defs/l{level + 1}"}
        steps[f"l{level}"] = {"anyOf": [again, again]}
    return {"$ref": "#/$defs/l0", "$defs": {**steps, f"l{depth}": {"type": "number"}}}


def test_good_schemas_are_accepted() -> None:
    for good in (CITY, {}, {"type": "array", "items": {"enum": [1, "$ref"]}}, "json", "text", None):
        schema_check(good)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "zork"}, "zork"),
        ({"properties": []}, "properties"),
        ({"$ref": "http://internal/secret"}, "outside"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "outside"),
        ({"$id": "http://internal/", "$ref": "secret"}, "outside"),
        ({"$ref": "#/$defs/nowhere"}, "refers to nothing"),
        ({"$ref": "#"}, "too long"),
        (nested(200), "deep"),
        ({"description": "x" * SCHEMA_MAX}, "characters"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        schema_check(schema)
    assert (caught.value.code, caught.value.param) == ("invalid_schema", "format")


def test_a_schema_that_would_take_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.structured.SECONDS_MAX", 0.05)
    with pytest.raises(InvalidRequest, match="too long"):
        schema_check(bomb(40))


def test_patterns_are_the_engines_to_follow() -> None:
    slow = {"type": "string", "pattern": "^(a+)+$"}
    assert problem_of(slow, json.dumps("a" * 60 + "!")) == ""
    by_name = {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}
    assert problem_of(by_name, '{"x1": 1}') == ""


@pytest.mark.parametrize(
    ("wanted", "answer", "why"),
    [
        ("json", "Paris", "not JSON"),
        ("json", "[1]", "not a JSON object"),
        ("json", '{"a": 1', "not JSON"),
        ("json", "", "not JSON"),
        (CITY, '{"city": 7}', "$.city: 7 is not of type 'string'"),
        (CITY, '{"people": 7}', "'city' is a required property"),
        (CITY, '{"city": "Paris", "mayor": 1}', "mayor"),
    ],
)
def test_an_answer_in_another_format_is_seen(wanted: Any, answer: str, why: str) -> None:
    assert why in problem_of(wanted, answer)


def test_an_answer_in_its_format_has_no_problem() -> None:
    assert problem_of(CITY, ' {"city": "Paris", "people": 2}\n') == ""
    assert problem_of("json", "{}") == ""
    assert problem_of("text", "Paris") == problem_of(None, "Paris") == ""


def test_the_format_is_said_in_the_system_message() -> None:
    user = {"role": "user", "content": "hello"}
    assert told([user], None) == [user]
    assert told([user], "json") == [{"role": "system", "content": instruction("json")}, user]
    system = {"role": "system", "content": "Be brief."}
    found = told([system, user], CITY)
    assert found[1:] == [user]
    assert found[0]["content"].startswith("Be brief.\n\n")
    assert json.dumps(CITY) in found[0]["content"]


def test_a_model_is_told_what_was_wrong() -> None:
    assistant, user = repair("Paris", "it is not JSON")
    assert assistant == {"role": "assistant", "content": "Paris"}
    assert "it is not JSON" in user["content"]
    assert repair("", "x")[0]["content"]


def test_one_code_fence_around_an_answer_is_taken_off() -> None:
    assert unwrapped('```json\n{"a": 1}\n```\n') == '{"a": 1}'
    for other in ('{"a": 1}', "```python\nx\n```", "words\n```json\n{}\n```", "```"):
        assert unwrapped(other) == other


def test_the_error_says_what_to_do() -> None:
    assert "max_tokens" in not_followed("it is not JSON", "length").message
    again = not_followed("it is not JSON", again=True)
    assert "asked once more" in again.message
    assert (again.status, again.code) == (502, "format_not_followed")
