"""The API's description: whole, and its examples are what its schemas say."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft4Validator

Found = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Found:
    made: Found = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


def operations(document: Found) -> Iterator[tuple[str, Found]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def validator(document: Found, schema: Found) -> Draft4Validator:
    """Hold values against a schema of OpenAPI 3.0: JSON Schema draft 4, but for ``nullable``."""
    return Draft4Validator(_draft4({**schema, "components": document["components"]}))


def _draft4(value: Any) -> Any:
    if isinstance(value, list):
        return [_draft4(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _draft4(item) for key, item in value.items()}
    if schema.pop("nullable", None) is not True:
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def contents(operation: Found) -> Iterator[tuple[str, str, Found]]:
    if "requestBody" in operation:
        for media_type, content in operation["requestBody"]["content"].items():
            yield "request", media_type, content
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            yield status, media_type, content


def test_every_operation_says_what_it_does_where_it_belongs_and_who_may(document: Found) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    schemes = document["components"]["securitySchemes"]
    assert set(schemes) == {"bearer", "session"}
    names = []
    for label, operation in operations(document):
        names.append(operation["operationId"])
        assert operation["summary"], label
        assert operation["description"], label
        assert set(operation["tags"]) <= tags, label
        assert {name for way in operation.get("security", []) for name in way} <= set(schemes)
    assert len(names) == len(set(names))


def test_every_body_and_every_answer_has_an_example_that_fits_its_schema(document: Found) -> None:
    for label, operation in operations(document):
        for where, media_type, content in contents(operation):
            if label in {"GET /api/schema", "GET /api/docs"} and where == "200":
                continue  # the document itself
            assert "example" in content, (label, where, media_type)
            if media_type == "application/json":
                errors = validator(document, content["schema"]).iter_errors(content["example"])
                assert [error.message for error in errors] == [], (label, where)


def test_the_example_of_a_stream_is_events_and_ends_as_streams_do(document: Found) -> None:
    content = document["paths"]["/api/chat"]["post"]["responses"]["200"]["content"]
    lines = content["text/event-stream"]["example"].split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    event = validator(document, {"$ref": "#/components/schemas/ChatEvent"})
    assert [error.message for item in events for error in event.iter_errors(item)] == []
    assert events[-1]["type"] == "done"


def test_every_answer_names_its_headers(document: Found) -> None:
    for label, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert "X-Request-ID" in answer["headers"], label
            assert answer["description"], label
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"}), label


def test_what_makes_an_operation_takes_a_key_and_waits(document: Found) -> None:
    found = {
        label: {parameter["name"] for parameter in operation["parameters"]}
        for label, operation in operations(document)
        if "202" in operation["responses"]
    }
    assert len(found) == 10
    for label, names in found.items():
        assert "wait" in names, label
        assert ("Idempotency-Key" in names) == ("cancel" not in label), label
