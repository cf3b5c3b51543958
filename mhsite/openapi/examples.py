"""A request and an answer for each operation. A test holds them against the document's own schemas."""

import json
from typing import Any, Final

from mhsite.openapi.things import (
    ACCOUNT,
    ASKED,
    CARD,
    CHAT_ANSWER,
    CHAT_STREAM,
    CONFIG,
    DETECTED,
    DISK_MODEL,
    ENTRY,
    EVENT,
    LOG,
    ME,
    MESSAGES,
    MODEL,
    OLLAMA_CARD,
    OLLAMA_HEAD,
    OPERATION,
    OPERATION_ID,
    PLAN,
    QUOTA,
    REVISION,
    ROLE,
    SAID,
    SAMPLES,
    STARTUP,
    STATUS,
    TOKEN,
    USED,
    USER,
)


def _page(*rows: Any) -> dict[str, Any]:
    return {
        "results": list(rows),
        "count": len(rows),
        "next": None,
        "previous": None,
        "limit": 50,
        "offset": 0,
    }


def _frames(*events: Any) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)


def _piece(delta: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


#: By operation.
REQUESTS: Final[dict[str, Any]] = {
    "auth_login": {"username": "owner", "password": "correct horse battery staple"},
    "tokens_create": {"name": "notebook", "expires_days": 90, "scopes": ["chat"]},
    "backend_switch": {"backend": "vllm"},
    "backend_start": {"options": {"gpuMemoryUtilization": 0.8}},
    "backend_restart": {},
    "backend_plan": {"model": MODEL},
    "backend_change_model": {"model": MODEL},
    "backend_pull": {"model": MODEL},
    "backend_configure": {"options": {"gpuMemoryUtilization": 0.8}, "apply": True},
    "backend_restore": {"apply": True, "revision": 7},
    "deployment_set": {"mode": "server", "server_account": "runpod"},
    "startup_set": {"behavior": "auto", "auto_start": {"vllm": True}},
    "chat": {"role": "persona", "messages": MESSAGES, "options": {"temperature": 0}},
    "v1_chat_completions": {"model": "role:persona", "messages": MESSAGES},
    "v1_completions": {"model": "role:coder", "prompt": "def add(a, b):", "max_tokens": 32},
    "v1_embeddings": {"model": "role:embedder", "input": ["blue", "sky"]},
    "v1_responses": {"model": "role:persona", "input": "Why is the sky blue?"},
    "ollama_chat": {"model": "role:persona", "messages": MESSAGES, "stream": False},
    "ollama_generate": {"model": "role:persona", "prompt": "Why is the sky blue?", "stream": False},
    "ollama_show": {"model": "role:persona"},
    "ollama_embed": {"model": "role:embedder", "input": ["blue", "sky"]},
    "ollama_embeddings": {"model": "role:embedder", "prompt": "blue"},
    "models_create": {
        "id": "night.persona",
        "provider": "ollama",
        "model": "qwen3:14b",
        "options": {"temperature": 0},
        "when_off": "wait",
        "capabilities": ["completion", "tools"],
    },
    "models_change": {"options": {"temperature": 0.4}},
    "roles_set": {
        "chain": ["night.persona", "default.persona"],
        "options": {},
        "context": "trim",
    },
    "providers_create": {
        "name": "openrouter",
        "kind": "openai",
        "settings": {"baseUrl": "https://openrouter.ai/api/v1", "apiKey": "sk-…"},
    },
    "providers_change": {"settings": {"apiKey": "sk-…"}},
    "usage_quota_set": {"requests_per_minute": 60},
}
#: By operation, then status.
ANSWERS: Final[dict[str, dict[str, Any]]] = {
    "status": {"200": STATUS},
    "detect": {"200": {"ollama": DETECTED}},
    "backend_auto": ASKED,
    "backend_switch": ASKED,
    "backend_start": ASKED,
    "backend_stop": ASKED,
    "backend_restart": ASKED,
    "backend_change_model": ASKED,
    "backend_pull": ASKED,
    "backend_model_delete": ASKED,
    "operation_cancel": ASKED,
    "operation": {"200": OPERATION},
    "operations": {"200": _page(OPERATION)},
    "backend_config": {"200": CONFIG},
    "backend_configure": {"200": {**CONFIG, "operation": OPERATION}},
    "backend_revisions": {"200": _page(REVISION)},
    "backend_restore": {"200": {**CONFIG, "operation": OPERATION}},
    "backend_install": ASKED,
    "deployment": {"200": {"mode": "local", "server_account": ""}},
    "deployment_set": {"200": {"mode": "server", "server_account": "runpod"}},
    "backend_plan": {"200": PLAN},
    "backend_models": {"200": _page(DISK_MODEL)},
    "backend_logs": {"200": LOG},
    "samples": {"200": SAMPLES},
    "startup": {"200": STARTUP},
    "startup_set": {"200": STARTUP},
    "models_list": {"200": {**_page(ENTRY), "total": 1}},
    "model": {"200": ENTRY},
    "models_create": {"201": ENTRY},
    "models_change": {"200": ENTRY},
    "roles_list": {"200": {**_page(ROLE), "total": 1}},
    "role": {"200": ROLE},
    "roles_set": {"200": ROLE},
    "providers_list": {"200": {**_page(ACCOUNT), "total": 1, "kinds": []}},
    "provider": {"200": ACCOUNT},
    "providers_create": {"200": ACCOUNT, "201": ACCOUNT},
    "providers_change": {"200": ACCOUNT},
    "providers_check": {"200": ACCOUNT},
    "auth_login": {"200": ME},
    "auth_me": {"200": ME},
    "users_list": {"200": _page(USER)},
    "tokens_list": {"200": _page(TOKEN)},
    "tokens_create": {"201": {**TOKEN, "token": "mh_0123456789abcdef"}},
    "audit_events": {"200": {**_page(EVENT), "offset": None}},
    "audit_verify": {
        "200": {"ok": True, "checked": 1, "first_bad": None, "reason": "", "head": "9f" * 32}
    },
    "usage": {"200": {**_page(USED), "offset": None}},
    "usage_quotas": {"200": _page(QUOTA)},
    "usage_quota": {"200": QUOTA},
    "usage_quota_set": {"200": QUOTA},
    "usage_quota_delete": {"200": QUOTA},
    "chat": {"200": CHAT_ANSWER},
    "v1_models": {"200": {"object": "list", "data": [CARD]}},
    "v1_model": {"200": CARD},
    "v1_chat_completions": {
        "200": {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_773_480_413,
            "model": MODEL,
            "choices": [{"index": 0, "message": SAID, "finish_reason": "stop"}],
            "usage": CHAT_ANSWER["usage"],
        }
    },
    "v1_completions": {
        "200": {
            "id": "cmpl-1",
            "object": "text_completion",
            "choices": [{"index": 0, "text": "\n    return a + b", "finish_reason": "stop"}],
        }
    },
    "v1_embeddings": {
        "200": {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
        }
    },
    "v1_responses": {
        "200": {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "model": MODEL,
            "output": [{"type": "message", "role": "assistant", "content": []}],
        }
    },
    "ollama_version": {"200": {"version": "0.24.0"}},
    "ollama_tags": {"200": {"models": [OLLAMA_CARD]}},
    "ollama_ps": {"200": {"models": [OLLAMA_CARD]}},
    "ollama_show": {"200": {"details": {}, "model_info": {}, "capabilities": ["completion"]}},
    "ollama_chat": {"200": {**OLLAMA_HEAD, "message": SAID, "done": True}},
    "ollama_generate": {"200": {**OLLAMA_HEAD, "response": SAID["content"], "done": True}},
    "ollama_embed": {"200": {"model": "role:embedder", "embeddings": [[0.1, -0.2]]}},
    "ollama_embeddings": {"200": {"embedding": [0.1, -0.2]}},
    "health_live": {"200": {"status": "ok"}},
    "health_ready": {
        "200": {"status": "ok", "checks": {"database": "ok", "broker": "ok", "worker": "ok"}},
        "503": {
            "status": "failed",
            "checks": {"database": "ok", "broker": "ok", "worker": "failed"},
        },
    },
}
#: By operation and media type, what is no single JSON value.
TEXTS: Final[dict[str, dict[str, str]]] = {
    "chat": {"text/event-stream": _frames(*CHAT_STREAM)},
    "v1_chat_completions": {
        "text/event-stream": _frames(_piece({"content": "Because"})) + "data: [DONE]\n\n"
    },
    "v1_completions": {
        "text/event-stream": _frames({"choices": [{"index": 0, "text": "\n"}]}) + "data: [DONE]\n\n"
    },
    "v1_responses": {
        "text/event-stream": "event: response.output_text.delta\n"
        + _frames({"type": "response.output_text.delta", "delta": "Because"})
    },
    "ollama_chat": {"application/x-ndjson": json.dumps({**OLLAMA_HEAD, "message": SAID}) + "\n"},
    "ollama_generate": {
        "application/x-ndjson": json.dumps({**OLLAMA_HEAD, "response": "Because"}) + "\n"
    },
    "audit_export": {"application/x-ndjson": json.dumps(EVENT) + "\n"},
    "metrics": {"text/plain": 'mh_requests_total{outcome="done"} 1.0\n'},
    "ollama": {"text/plain": "Ollama is running"},
}
#: Of a path, by operation's parameter.
PARAMETERS: Final[dict[str, Any]] = {
    "operation_id": OPERATION_ID,
    "model_id": MODEL,
    "entry_id": "default.persona",
    "public_id": TOKEN["id"],
    "username": "stan",
    "model": "role:persona",
    "number": 2,
}
_NAMES: Final = (
    ("backend", "vllm"),
    ("role", "persona"),
    ("provider", "openrouter"),
)


def add(operation: dict[str, Any]) -> None:
    """Add the operation's examples to its description."""
    name = operation["operationId"]
    if name in REQUESTS:
        for content in operation["requestBody"]["content"].values():
            content["example"] = REQUESTS[name]
    for status, value in ANSWERS.get(name, {}).items():
        operation["responses"][status]["content"]["application/json"]["example"] = value
    for media_type, text in TEXTS.get(name, {}).items():
        operation["responses"]["200"]["content"][media_type]["example"] = text
    for parameter in operation.get("parameters", []):
        value = _parameter(name, parameter)
        if value is not None:
            parameter["example"] = value


def _parameter(operation: str, parameter: dict[str, Any]) -> Any:
    if parameter["name"] != "name":
        return PARAMETERS.get(parameter["name"]) if parameter["in"] != "query" else None
    return next(value for start, value in _NAMES if operation.startswith(start))
