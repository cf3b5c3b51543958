"""Schemas that are not REST framework serializers: pydantic's, and those of answers by other programs."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from router.ollama_requests import OllamaChat, OllamaEmbed, OllamaGenerate, OllamaShow
from router.registry_schemas import AccountChange, AccountCreate, EntryChange, EntryCreate, RoleFile
from router.responses_translation import OpenAIResponse
from router.schemas import ChatRequest, OpenAIChat, OpenAICompletion, OpenAIEmbedding

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_TEXT_OR_NULL: Final[dict[str, Any]] = {"type": "string", "nullable": True}
_NUMBER: Final[dict[str, Any]] = {"type": "number"}
_NUMBER_OR_NULL: Final[dict[str, Any]] = {"type": "number", "nullable": True}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}
_OPEN: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}


def reference(name: str) -> dict[str, str]:
    """Return where the document has the schema ``name``."""
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(
    description: str, properties: Mapping[str, Any], *, also: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return an object that has all of ``properties``, and perhaps those in ``also``."""
    return {
        "type": "object",
        "description": description,
        "required": list(properties),
        "properties": {**properties, **(also or {})},
    }


_ERROR_FIELDS: Final[dict[str, Any]] = {
    "type": {**_TEXT, "description": "the kind: `permission_error`"},
    "code": {**_TEXT, "description": "the reason: `backend_not_found`"},
    "param": {**_TEXT_OR_NULL, "description": "the field at fault, if one is"},
    "request_id": {**_TEXT, "description": "as in `X-Request-ID`, the logs and the audit"},
}
_MESSAGE: Final = {**_TEXT, "description": "what is wrong and what to do"}
_USAGE: Final = _object(
    "Tokens, as the engine counted them.",
    {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
)
_TIMINGS: Final = _object(
    "Milliseconds since the request came; null for what did not happen.",
    {"queued_ms": _NUMBER_OR_NULL, "ttft_ms": _NUMBER_OR_NULL, "total_ms": _NUMBER},
)
_CALL: Final = _object("A call of a tool.", {"id": _TEXT, "name": _TEXT, "arguments": _TEXT})
_USAGE_OR_NULL: Final = {"allOf": [reference("ChatUsage")], "nullable": True}
_MORE: Final = {"logprobs": _list(_OPEN), "trimmed": _COUNT}


def _event(kind: str, description: str, fields: Mapping[str, Any], **also: Any) -> dict[str, Any]:
    return _object(description, {"type": {**_TEXT, "enum": [kind]}, **fields}, also=also)


_EVENTS: Final[dict[str, dict[str, Any]]] = {
    "ChatStart": _event(
        "start",
        "The engine has accepted the request.",
        {"model": _TEXT, "provider": _TEXT, "backend": _TEXT_OR_NULL, "request_id": _TEXT},
        trimmed=_COUNT,
    ),
    "ChatQueued": _event(
        "queued",
        "The request waits while the engine starts or switches.",
        {"position": _COUNT, "eta_seconds": _NUMBER_OR_NULL, "reason": _TEXT},
    ),
    "ChatToken": _event(
        "token", "A piece of the answer.", {"content": _TEXT}, logprobs=_list(_OPEN)
    ),
    "ChatReasoning": _event(
        "reasoning", "A piece of what the model thinks before it answers.", {"content": _TEXT}
    ),
    "ChatToolCall": _event("tool_call", "A piece of a call of a tool.", {"tool_call": _OPEN}),
    "ChatDone": _event(
        "done",
        "The answer is complete.",
        {"finish_reason": _TEXT, "usage": _USAGE_OR_NULL, "timings": reference("ChatTimings")},
    ),
    "ChatError": _event("error", "The answer broke off.", {"error": reference("ErrorBody")}),
}
_ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "ErrorBody": _object("What is wrong.", {"message": _MESSAGE, **_ERROR_FIELDS}),
    "Error": _object("Every error, on every path.", {"error": reference("ErrorBody")}),
    "OllamaError": _object(
        "An error, as Ollama's clients read it.", {"error": _MESSAGE, **_ERROR_FIELDS}
    ),
    "ChatUsage": _USAGE,
    "ChatTimings": _TIMINGS,
    "ChatAnswer": _object(
        "An answer that was not streamed.",
        {
            "content": _TEXT,
            "reasoning": _TEXT,
            "tool_calls": _list(_CALL),
            "model": _TEXT,
            "provider": _TEXT,
            "backend": {**_TEXT_OR_NULL, "description": "null where a cloud answered"},
            "finish_reason": _TEXT,
            "usage": _USAGE_OR_NULL,
            "timings": reference("ChatTimings"),
            "request_id": _TEXT,
        },
        also=_MORE,
    ),
    **_EVENTS,
    "ChatEvent": {
        "description": "What a `data:` line of a stream holds; the last is `done` or `error`.",
        "oneOf": [reference(name) for name in _EVENTS],
    },
    "OpenAIModelCard": _object(
        "As in OpenAI's API.",
        {"id": _TEXT, "object": {**_TEXT, "enum": ["model"]}, "owned_by": _TEXT},
    ),
    "OpenAIModels": _object(
        "As in OpenAI's API.",
        {"object": {**_TEXT, "enum": ["list"]}, "data": _list(reference("OpenAIModelCard"))},
    ),
    "OpenAIChatCompletion": _object(
        "As in OpenAI's API; what the engine says more is passed on.", {"choices": _list(_OPEN)}
    ),
    "OpenAICompletionAnswer": _object(
        "As in OpenAI's API; what the engine says more is passed on.", {"choices": _list(_OPEN)}
    ),
    "OpenAIEmbeddings": _object(
        "As in OpenAI's API.", {"object": {**_TEXT, "enum": ["list"]}, "data": _list(_OPEN)}
    ),
    "OpenAIResponseAnswer": _object(
        "As in OpenAI's API.",
        {
            "id": _TEXT,
            "object": {**_TEXT, "enum": ["response"]},
            "status": _TEXT,
            "model": _TEXT,
            "output": _list(_OPEN),
        },
    ),
    "OllamaVersion": _object("As in Ollama's API.", {"version": _TEXT}),
    "OllamaModels": _object("As in Ollama's API.", {"models": _list(_OPEN)}),
    "OllamaShown": _object(
        "As in Ollama's API.", {"details": _OPEN, "model_info": _OPEN, "capabilities": _list(_TEXT)}
    ),
    "OllamaChatAnswer": _object(
        "As in Ollama's API; streamed, one of these per line.",
        {"model": _TEXT, "created_at": _TEXT, "message": _OPEN, "done": _FLAG},
    ),
    "OllamaGenerateAnswer": _object(
        "As in Ollama's API; streamed, one of these per line.",
        {"model": _TEXT, "created_at": _TEXT, "response": _TEXT, "done": _FLAG},
    ),
    "OllamaEmbeddings": _object(
        "As in Ollama's API.", {"model": _TEXT, "embeddings": _list(_list(_NUMBER))}
    ),
    "OllamaEmbedding": _object("As in Ollama's API.", {"embedding": _list(_NUMBER)}),
    "StreamEvent": {
        "type": "object",
        "description": "One server-sent event of a stream.",
        "required": ["data"],
        "properties": {"data": _TEXT, "event": _TEXT},
    },
    "Health": _object(
        "Is it?", {"status": {**_TEXT, "enum": ["ok", "failed"]}}, also={"checks": _OPEN}
    ),
}
_MODELS: Final[tuple[type[BaseModel], ...]] = (
    ChatRequest,
    OpenAIChat,
    OpenAICompletion,
    OpenAIEmbedding,
    OpenAIResponse,
    OllamaChat,
    OllamaGenerate,
    OllamaShow,
    OllamaEmbed,
    AccountChange,
    AccountCreate,
    EntryChange,
    EntryCreate,
    RoleFile,
)


def _item(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return _object("", {"type": {**_TEXT, "enum": [kind]}, **fields})


_PARTS: Final = {
    "type": "array",
    "items": {
        "anyOf": [
            _item("input_text", {"text": _TEXT}),
            _item("output_text", {"text": _TEXT}),
            _item("refusal", {"refusal": _TEXT}),
            _item("input_image", {"image_url": _TEXT}),
        ]
    },
}
_SAID: Final = {"anyOf": [_TEXT, _PARTS]}
_ROLES: Final = ["system", "developer", "user", "assistant"]
_INPUT_ITEM: Final = {
    "anyOf": [
        _object(
            "",
            {"content": _SAID},
            also={
                "type": {**_TEXT, "enum": ["message"]},
                "role": {**_TEXT, "enum": _ROLES, "default": "user"},
            },
        ),
        _item("function_call", {"call_id": _TEXT, "name": _TEXT, "arguments": _TEXT}),
        _item("function_call_output", {"call_id": _TEXT, "output": _SAID}),
        _item("reasoning", {}),
    ]
}
#: What validators of a model check beside its fields, by the name of its schema.
_MORE_RULES: Final[dict[str, dict[str, Any]]] = {
    "ChatRequest": {
        "not": {"required": ["role", "model"], "properties": {"role": _TEXT, "model": _TEXT}}
    },
    "OllamaShow": {
        "anyOf": [
            {"required": [name], "properties": {name: {**_TEXT, "minLength": 1}}}
            for name in ("model", "name")
        ]
    },
    "Message": {
        "anyOf": [
            {"required": ["content"], "properties": {"content": {"not": {"enum": [None]}}}},
            {
                "required": ["tool_calls"],
                "properties": {"tool_calls": {"type": "array", "minItems": 1}},
            },
        ]
    },
}


def schemas() -> dict[str, Any]:
    """Return the schemas by name."""
    found = dict(found for model in _MODELS for found in _of_model(model))
    for name, rules in _MORE_RULES.items():
        found[name] |= rules
    texts, items = found["OpenAIResponse"]["properties"]["input"]["anyOf"]
    found["OpenAIResponse"]["properties"]["input"]["anyOf"] = [
        texts,
        {**items, "items": _INPUT_ITEM},
    ]
    return {**_ANSWERS, **found}


def _of_model(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    # By field name: the spelling of the contract; camel case is taken too.
    schema = model.model_json_schema(by_alias=False, ref_template="#/components/schemas/{model}")
    for name, inner in schema.pop("$defs", {}).items():
        yield name, _openapi(inner)
    yield model.__name__, _openapi(schema)


def _openapi(value: Any) -> Any:
    """Return a JSON Schema as OpenAPI 3.0 has it: ``nullable`` for null, ``enum`` for ``const``."""
    if isinstance(value, list):
        return [_openapi(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _openapi(item) for key, item in value.items()}
    if isinstance(schema.get("title"), str):
        del schema["title"]  # the field's name again
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    for limit in ("Minimum", "Maximum"):
        bound = schema.get(f"exclusive{limit}")
        if isinstance(bound, int | float) and not isinstance(bound, bool):
            schema[limit.lower()] = bound
            schema[f"exclusive{limit}"] = True
    return _without_null(schema)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf")
    if not isinstance(choices, list) or {"type": "null"} not in choices:
        return schema
    rest = [choice for choice in choices if choice != {"type": "null"}]
    del schema["anyOf"]
    if schema.get("default", ...) is None:
        del schema["default"]
    only = rest[0] if len(rest) == 1 else {"anyOf": rest}
    if "$ref" in only:
        only = {"allOf": [only]}
    if "enum" in only:  # an enumeration is the whole list of what may be
        only = {**only, "enum": [*only["enum"], None]}
    return {**schema, **only, "nullable": True}
