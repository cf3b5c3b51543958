"""What drf-spectacular cannot see: the one error shape, and the plain async views."""

from typing import Any, Final

from pydantic import BaseModel

from router.ollama_requests import OllamaChat, OllamaEmbed, OllamaGenerate, OllamaShow
from router.registry_schemas import AccountChange, AccountCreate, EntryChange, EntryCreate, RoleFile
from router.responses_translation import OpenAIResponse
from router.schemas import ChatRequest, OpenAIChat, OpenAICompletion, OpenAIEmbedding

_MESSAGE: Final = {"type": "string", "description": "what is wrong and what to do"}
_ERROR_FIELDS: Final[dict[str, Any]] = {
    "type": {"type": "string", "description": "the kind: `permission_error`"},
    "code": {"type": "string", "description": "the reason: `backend_not_found`"},
    "param": {
        "type": "string",
        "nullable": True,
        "description": "the field at fault, if one is",
    },
    "request_id": {"type": "string"},
}
_ERROR: Final = {
    "type": "object",
    "description": "Every error, on every path.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param", "request_id"],
            "properties": {"message": _MESSAGE, **_ERROR_FIELDS},
        }
    },
}
_OPENAI: Final = {
    "type": "object",
    "description": "As in OpenAI's API.",
    "additionalProperties": True,
}
_OLLAMA: Final = {**_OPENAI, "description": "As in Ollama's API."}
_OLLAMA_ERROR: Final = {
    "type": "object",
    "description": "An error, as Ollama's clients read it.",
    "required": ["error", "type", "code", "request_id"],
    "properties": {"error": _MESSAGE, **_ERROR_FIELDS},
}
_CHAT_ANSWER: Final = {
    "type": "object",
    "required": ["content", "model", "finish_reason", "usage", "request_id"],
    "properties": {
        "content": {"type": "string", "nullable": True},
        "reasoning": {"type": "string", "nullable": True},
        "tool_calls": {"type": "array", "nullable": True, "items": {"type": "object"}},
        "model": {"type": "string"},
        "provider": {"type": "string"},
        "backend": {"type": "string", "nullable": True},
        "finish_reason": {"type": "string", "nullable": True},
        "usage": {"type": "object", "additionalProperties": {"type": "integer"}},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
        "request_id": {"type": "string"},
    },
}
_OLLAMA_BODIES: Final[dict[str, type[BaseModel]]] = {
    "chat": OllamaChat,
    "generate": OllamaGenerate,
    "show": OllamaShow,
    "embed": OllamaEmbed,
    "embeddings": OllamaEmbed,
}
_REGISTRY: Final[tuple[type[BaseModel], ...]] = (
    AccountChange,
    AccountCreate,
    EntryChange,
    EntryCreate,
    RoleFile,
)
_STATUSES: Final = {
    "400": "The request cannot be understood.",
    "401": "Nobody is signed in, or the token is not good.",
    "403": "Not allowed.",
    "404": "What was named does not exist.",
    "413": "The body is too large.",
    "422": "A value is not acceptable.",
    "429": "Too many requests; see `Retry-After`.",
    "503": "What is needed is not running now.",
}
_ALWAYS: Final = ("400", "401", "403", "429")
_WITH_BODY: Final = ("413", "422")
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"session": []}]


def complete(result: dict[str, Any], generator: Any, **_: Any) -> dict[str, Any]:
    """Add the plain views, and the errors of every operation (spectacular's postprocessing hook)."""
    del generator
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas["Error"] = _ERROR
    schemas["OllamaError"] = _OLLAMA_ERROR
    schemas["ChatAnswer"] = _CHAT_ANSWER
    models: tuple[type[BaseModel], ...] = (
        ChatRequest,
        OpenAIChat,
        OpenAICompletion,
        OpenAIEmbedding,
        OpenAIResponse,
    )
    for model in (*models, *_OLLAMA_BODIES.values(), *_REGISTRY):
        _add_model(schemas, model)
    for path, method, operation in (*_plain_views(), *_ollama_views()):
        result["paths"].setdefault(path, {})[method] = operation
    for path, methods in result["paths"].items():
        for operation in methods.values():
            _add_errors(path, operation)
    result["paths"] = dict(sorted(result["paths"].items()))
    return result


def _add_errors(path: str, operation: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    wanted = [*_ALWAYS]
    if "requestBody" in operation:
        wanted += _WITH_BODY
    if "{" in path or path.startswith(("/v1/", "/api/chat", "/ollama/api/")):
        wanted += ["404", "503"]
    if path.startswith("/health/"):
        wanted = []
    for status in wanted:
        shape = "OllamaError" if path.startswith("/ollama/") else "Error"
        responses.setdefault(status, _error_response(status, shape))


def _error_response(status: str, shape: str) -> dict[str, Any]:
    return {
        "description": _STATUSES[status],
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape}"}}},
    }


def _add_model(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update({name: _openapi(inner) for name, inner in schema.pop("$defs", {}).items()})
    schemas[model.__name__] = _openapi(schema)


def _openapi(value: Any) -> Any:
    """Return a JSON Schema as OpenAPI 3.0 has it: ``nullable`` for null, ``enum`` for ``const``."""
    if isinstance(value, list):
        return [_openapi(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {key: _openapi(item) for key, item in value.items()}
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
    only = rest[0] if len(rest) == 1 else {"anyOf": rest}
    if "$ref" in only:
        only = {"allOf": [only]}
    return {**schema, **only, "nullable": True}


def _plain_views() -> list[tuple[str, str, dict[str, Any]]]:
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return [
        (
            "/api/chat",
            "post",
            _operation(
                "chat", "Chat with a role or a model; streamed with `stream: true`.", "ChatRequest",
                {"application/json": {"schema": {"$ref": "#/components/schemas/ChatAnswer"}}, **stream},
            ),
        ),
        (
            "/v1/chat/completions",
            "post",
            _operation(
                "v1_chat_completions", "As OpenAI's.", "OpenAIChat",
                {"application/json": {"schema": _OPENAI}, **stream},
            ),
        ),
        (
            "/v1/completions",
            "post",
            _operation(
                "v1_completions", "As OpenAI's.", "OpenAICompletion",
                {"application/json": {"schema": _OPENAI}, **stream},
            ),
        ),
        (
            "/v1/embeddings",
            "post",
            _operation(
                "v1_embeddings", "As OpenAI's.", "OpenAIEmbedding",
                {"application/json": {"schema": _OPENAI}},
            ),
        ),
        (
            "/v1/responses",
            "post",
            _operation(
                "v1_responses", "As OpenAI's, and nothing is kept between requests.", "OpenAIResponse",
                {"application/json": {"schema": _OPENAI}, **stream},
            ),
        ),
        (
            "/v1/models",
            "get",
            _operation("v1_models", "As OpenAI's.", None, {"application/json": {"schema": _OPENAI}}),
        ),
        (
            "/v1/models/{model}",
            "get",
            _operation(
                "v1_model", "As OpenAI's.", None, {"application/json": {"schema": _OPENAI}},
                [_path_parameter("model")],
            ),
        ),
        (
            "/api/audit/export",
            "get",
            _operation(
                "audit_export", "Every event chosen as one JSON object per line, oldest first; "
                "filters as for `/api/audit/events`.", None,
                {"application/x-ndjson": {"schema": {"type": "string"}}},
            ),
        ),
        (
            "/metrics",
            "get",
            {
                **_operation(
                    "metrics", "Counters and histograms of all requests, for Prometheus. "
                    "With a token, or from this machine without one.", None,
                    {"text/plain": {"schema": {"type": "string"}}},
                ),
                "security": [*_SECURITY, {}],
            },
        ),
        *[(f"/health/{name}", "get", _health(name)) for name in ("live", "ready")],
    ]  # fmt: skip


def _ollama_views() -> list[tuple[str, str, dict[str, Any]]]:
    content = {"application/json": {"schema": _OLLAMA}}
    streamed = {**content, "application/x-ndjson": {"schema": {"type": "string"}}}
    reads = [
        (
            f"/ollama/api/{name}",
            "get",
            _operation(f"ollama_{name}", "As Ollama's.", None, content),
        )
        for name in ("ps", "tags", "version")
    ]
    asks = [
        (
            f"/ollama/api/{name}",
            "post",
            _operation(
                f"ollama_{name}",
                "As Ollama's.",
                body.__name__,
                streamed if name in {"chat", "generate"} else content,
            ),
        )
        for name, body in _OLLAMA_BODIES.items()
    ]
    return [*reads, *asks]


def _operation(
    name: str,
    description: str,
    body: str | None,
    content: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "description": description,
        "tags": [name.split("_", maxsplit=1)[0]],
        "security": _SECURITY,
        "responses": {"200": {"description": "", "content": content}},
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        schema = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _health(name: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object", "additionalProperties": True}}}
    responses = {"200": {"description": "yes", "content": content}}
    if name == "ready":
        responses["503"] = {"description": "no, and what is not", "content": content}
    return {
        "operationId": f"health_{name}",
        "description": f"Is the site {name}?",
        "tags": ["health"],
        "security": [{}],
        "responses": responses,
    }
