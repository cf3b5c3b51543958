"""The views that are not REST framework's."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mhsite.openapi.shapes import reference

Operation = tuple[str, str, dict[str, Any]]

SIGNED_IN: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"session": []}]
ANYBODY: Final[list[dict[str, list[str]]]] = [{}]
#: Queries of the list of events that the export has not: they say which page.
_PAGE: Final = ("limit", "offset", "cursor")
#: Path, method, name, what it does, body, what the answer is.
_CHATS: Final = (
    ("/api/chat", "chat", "Chat with a role or a model; streamed with `stream: true`: a `ChatEvent` per line.",
     "ChatRequest", "ChatAnswer"),
    ("/v1/chat/completions", "v1_chat_completions", "As OpenAI's; streamed with `stream: true`.",
     "OpenAIChat", "OpenAIChatCompletion"),
    ("/v1/completions", "v1_completions", "As OpenAI's; streamed with `stream: true`.",
     "OpenAICompletion", "OpenAICompletionAnswer"),
    ("/v1/responses", "v1_responses", "As OpenAI's, and nothing is kept between requests; streamed with `stream: true`.",
     "OpenAIResponse", "OpenAIResponseAnswer"),
)  # fmt: skip
_OLLAMA_READS: Final = (
    ("version", "Which Ollama's API this is.", "OllamaVersion"),
    ("tags", "List every name that `model` may have.", "OllamaModels"),
    ("ps", "List what serves now.", "OllamaModels"),
)
_OLLAMA_ASKS: Final = (
    ("show", "Say what a model can.", "OllamaShow", "OllamaShown"),
    ("chat", "Chat, as Ollama's; streamed unless `stream: false`.", "OllamaChat", "OllamaChatAnswer"),
    ("generate", "Answer a prompt, as Ollama's; streamed unless `stream: false`.", "OllamaGenerate",
     "OllamaGenerateAnswer"),
    ("embed", "Embed a text, or several.", "OllamaEmbed", "OllamaEmbeddings"),
    ("embeddings", "Embed one text, in the older form.", "OllamaEmbed", "OllamaEmbedding"),
)  # fmt: skip


def operations(paths: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield path, method and description of each; ``paths`` are those of the other views."""
    for path, name, words, body, answer in _CHATS:
        content = {**_json(answer), "text/event-stream": {"schema": reference("StreamEvent")}}
        yield path, "post", _operation(name, words, content, body=body)
    yield from _openai()
    yield from _ollama()
    yield from _site(paths)


def _openai() -> Iterator[Operation]:
    embeddings = _operation(
        "v1_embeddings",
        "As OpenAI's; one text or several.",
        _json("OpenAIEmbeddings"),
        body="OpenAIEmbedding",
    )
    yield "/v1/embeddings", "post", embeddings
    words = "List every name that `model` may have: served models, the registry's, roles."
    yield "/v1/models", "get", _operation("v1_models", words, _json("OpenAIModels"))
    one = _operation("v1_model", "Return one of the names.", _json("OpenAIModelCard"))
    one["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    yield "/v1/models/{model}", "get", one


def _ollama() -> Iterator[Operation]:
    there = _operation("ollama", "Say that it is there, as Ollama does.", _text("text/plain"))
    yield "/ollama/", "get", {**there, "security": ANYBODY}
    for name, words, answer in _OLLAMA_READS:
        yield f"/ollama/api/{name}", "get", _operation(f"ollama_{name}", words, _json(answer))
    for name, words, body, answer in _OLLAMA_ASKS:
        content = _json(answer)
        if name in {"chat", "generate"}:
            content |= _text("application/x-ndjson")
        operation = _operation(f"ollama_{name}", words, content, body=body)
        yield f"/ollama/api/{name}", "post", operation


def _site(paths: Mapping[str, Any]) -> Iterator[Operation]:
    export = _operation(
        "audit_export",
        "Return every event chosen as one JSON object per line, oldest first.",
        _text("application/x-ndjson"),
    )
    filters = paths["/api/audit/events"]["get"]["parameters"]
    export["parameters"] = [item for item in filters if item["name"] not in _PAGE]
    yield "/api/audit/export", "get", export
    words = "Counters and histograms of all requests, for Prometheus. With a token, or from this machine"
    metrics = _operation("metrics", f"{words} without one.", _text("text/plain"))
    yield "/metrics", "get", {**metrics, "security": [*SIGNED_IN, {}]}
    live = _operation("health_live", "Is the process alive?", _json("Health"))
    yield "/health/live", "get", {**live, "security": ANYBODY}
    ready = _operation(
        "health_ready", "Is everything there that a request may need?", _json("Health")
    )
    ready["responses"]["503"] = {"description": "no, and what is not", "content": _json("Health")}
    yield "/health/ready", "get", {**ready, "security": ANYBODY}
    yield "/api/schema", "get", _operation("schema", "Return this document.", _document())
    docs = _operation("docs", "This document as a page, to be tried.", _text("text/html"))
    yield "/api/docs", "get", docs


def _document() -> dict[str, Any]:
    kinds = ("application/vnd.oai.openapi", "application/vnd.oai.openapi+json", "application/json")
    return {kind: {"schema": {"type": "object", "additionalProperties": True}} for kind in kinds}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": reference(name)}}


def _text(media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"type": "string"}}}


def _operation(
    name: str, description: str, content: Mapping[str, Any], *, body: str | None = None
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "description": description,
        "security": SIGNED_IN,
        "responses": {"200": {"description": "", "content": dict(content)}},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation
