"""Which errors an operation can give, and the headers of answers."""

from typing import Any, Final

from mhsite.openapi.shapes import reference

#: Status, what it means, and an example: type, code, message.
_STATUSES: Final = {
    "400": ("The request cannot be understood.", "invalid_request_error", "invalid_json",
            "The body is not JSON: Expecting value at line 1 column 1."),
    "401": ("Nobody is signed in, or the token is not good.", "authentication_error", "not_authenticated",
            "Sign in, or send a bearer token."),
    "403": ("Not allowed; it is recorded.", "permission_error", "not_allowed",
            "stan (standard) may not do this: it needs the permission backends:operate."),
    "404": ("What was named does not exist.", "not_found_error", "backend_not_found",
            "There is no backend called 'vlm'. Backends here: ollama, vllm."),
    "406": ("`Accept` asks for something else than JSON.", "invalid_request_error", "not_acceptable",
            "Could not satisfy the request Accept header."),
    "409": ("Not as things are now.", "conflict_error", "operation_conflict",
            "vllm is busy with another operation (start). Wait for it, or cancel it."),
    "413": ("The body is too large.", "invalid_request_error", "body_too_large",
            "The body is larger than the 20971520 bytes this site accepts."),
    "415": ("The body is not JSON.", "invalid_request_error", "unsupported_media_type",
            'Unsupported media type "text/plain" in request.'),
    "422": ("A value is not acceptable.", "invalid_request_error", "invalid_value",
            "limit must be a whole number from 1 to 500."),
    "429": ("Too many requests; see `Retry-After`.", "rate_limit_error", "rate_limited",
            "More than 60 requests in this minute. Try again in 12 seconds."),
    "502": ("The engine or provider failed.", "upstream_error", "engine_stopped",
            "The engine went away before the answer was complete. Ask again."),
    "503": ("What is needed is not running now; see `Retry-After`.", "unavailable_error",
            "worker_unavailable", "No worker of GPU machine 'local' is running. Start the site with: mh up"),
    "504": ("The engine or provider did not answer in time.", "timeout_error", "upstream_timed_out",
            "The engine did not answer within 600 s."),
}  # fmt: skip
HEADERS: Final = {
    "X-Request-ID": {
        "description": "the request's own id, its client's where that sent a good one",
        "required": True,
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "path of what was made",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "seconds after which trying again can help",
        "schema": {"type": "integer"},
    },
    "WWW-Authenticate": {
        "description": "how to sign in",
        "required": True,
        "schema": {"type": "string"},
    },
}
#: Plain views: not REST framework's, which look at ``Accept`` and ``Content-Type`` in a way of their own.
_PLAIN: Final = ("/v1/", "/ollama/", "/api/chat", "/health/", "/metrics", "/api/audit/export")
_CHATS: Final = (
    "/api/chat",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/ollama/api/chat",
    "/ollama/api/generate",
    "/ollama/api/embed",
    "/ollama/api/embeddings",
)
#: By operation, what nothing else tells.
_MORE: Final[dict[str, tuple[str, ...]]] = {
    "auth_login": ("429",),
    "backend_configure": ("409", "503"),
    "backend_restore": ("409", "503"),
    "backend_switch": ("404",),
    "models_create": ("409",),
    "models_change": ("409",),
    "models_delete": ("409",),
    "providers_create": ("409", "503"),
    "providers_change": ("409", "503"),
    "providers_delete": ("409",),
    "providers_check": ("503",),
    "tokens_create": ("404",),
}


def add(path: str, operation: dict[str, Any]) -> None:
    """Add the errors the operation can give, and the headers of its answers."""
    responses = operation.setdefault("responses", {})
    shape = "OllamaError" if path.startswith("/ollama/api/") else "Error"
    for status in sorted(_errors(path, operation)):
        given = responses.setdefault(status, {"description": _STATUSES[status][0]})
        given.setdefault("content", {"application/json": _content(status, shape)})
    for status, response in responses.items():
        response["headers"] = _headers(operation["operationId"], status)
        response["description"] = response.get("description") or _DONE.get(status, "done")
    operation["responses"] = dict(sorted(responses.items()))


#: What they make has no path of its own to be read at.
_UNNAMED: Final = ("tokens_create",)
_DONE: Final = {
    "200": "done",
    "201": "made",
    "202": "the operation goes on",
}


def _errors(path: str, operation: dict[str, Any]) -> set[str]:
    if path.startswith("/health/") or path == "/ollama/":
        return set()
    wanted = {"400", "401", "403", *_MORE.get(operation["operationId"], ())}
    if not path.startswith(_PLAIN):
        wanted.add("406")
    parameters = operation.get("parameters", [])
    if "requestBody" in operation:
        wanted |= {"413", "422"} if path.startswith(_PLAIN) else {"413", "415", "422"}
    if any(item["in"] == "query" for item in parameters):
        wanted.add("422")
    if "{" in path:
        wanted.add("404")
    if "202" in operation["responses"] and "cancel" not in path:
        wanted |= {"409", "422", "503"}
    if path in _CHATS:
        wanted |= {"404", "429", "502", "503", "504"}
    if path == "/ollama/api/show":
        wanted |= {"404", "503"}
    return wanted


def _content(status: str, shape: str) -> dict[str, Any]:
    _, kind, code, message = _STATUSES[status]
    rest = {"type": kind, "code": code, "param": None, "request_id": "2f6c1c8e5d0b4a5f"}
    flat, nested = {"error": message, **rest}, {"error": {"message": message, **rest}}
    return {"schema": reference(shape), "example": flat if shape == "OllamaError" else nested}


def _headers(name: str, status: str) -> dict[str, Any]:
    names = ["X-Request-ID"]
    if status == "202" or (status == "201" and name not in _UNNAMED):
        names.append("Location")
    if status == "401":
        names.append("WWW-Authenticate")
    if status in {"429", "503"}:
        names.append("Retry-After")
    return {header: {"$ref": f"#/components/headers/{header}"} for header in names}
