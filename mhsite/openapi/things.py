"""Things as clients see them, for the examples of the document."""

from typing import Final

TIME: Final = "2026-03-14T09:26:53.589793+00:00"
LATER: Final = "2026-03-14T09:27:14.323846+00:00"
OPERATION_ID: Final = "5f0c8a2e-7d0b-4c56-9a3e-1b2f3c4d5e6f"
REQUEST_ID: Final = "2f6c1c8e5d0b4a5f9e8d7c6b5a493827"
MODEL: Final = "Qwen/Qwen2.5-14B-Instruct"
NO_ACTIVITY: Final = {"in_flight": 0, "since": None, "attached": False}
OPERATION: Final = {
    "id": OPERATION_ID,
    "kind": "switch",
    "backend": "vllm",
    "from_backend": "ollama",
    "model": None,
    "state": "running",
    "step": "start",
    "steps": [
        {
            "name": "preflight",
            "state": "done",
            "started_at": TIME,
            "finished_at": TIME,
            "message": "",
        },
        {
            "name": "start",
            "state": "running",
            "started_at": TIME,
            "finished_at": None,
            "message": "Loading weights.",
        },
    ],
    "progress": 0.4,
    "eta_seconds": 21.0,
    "requested_by": "owner",
    "request_id": REQUEST_ID,
    "error": None,
    "created_at": TIME,
    "finished_at": None,
}
ENDED: Final = {
    **OPERATION,
    "state": "succeeded",
    "progress": 1.0,
    "eta_seconds": None,
    "finished_at": LATER,
}
ASKED: Final = {"200": ENDED, "202": OPERATION}
AVAILABLE: Final = {
    "title": "vLLM",
    "installed": True,
    "installing": None,
    "running": True,
    "state": "ready",
    "health": "healthy",
    "version": "0.32.0",
    "model": MODEL,
    "endpoint": "http://127.0.0.1:8000",
    "attached": False,
    "in_flight": 3,
    "since": TIME,
    "memory": 20_401_094_656,
    "standby": None,
    "metrics": {"running": 3.0, "waiting": 0.0},
    "tokens_per_second": 212.4,
    "requests_running": 3,
    "requests_waiting": 0,
    "reason": "",
    "failure": "",
    "revision": 7,
}
STATUS: Final = {
    "active": {
        "backend": "vllm",
        "engine": "vllm",
        "node": "local",
        "state": "ready",
        "running": True,
        "health": "healthy",
        "model": MODEL,
        "version": "0.32.0",
        "endpoint": "http://127.0.0.1:8000",
        "attached": False,
        "in_flight": 3,
        "since": TIME,
    },
    "available": {"vllm": AVAILABLE},
    "operation": None,
    "downloads": [],
    "gpus": [{"index": 0, "name": "NVIDIA L4", "memory_total": 24_152_899_584, "memory_used": 0}],
    "deployment_mode": "local",
    "worker": True,
    "observed_at": TIME,
}
DETECTED: Final = {
    "title": "Ollama",
    "installed": True,
    "installing": None,
    "running": False,
    "state": "stopped",
    "attached": False,
    "version": "0.24.0",
    "model": None,
    "endpoint": "http://127.0.0.1:11434",
    "path": "/usr/local/bin/ollama",
    "unit": "",
    "pid": None,
    "user": "",
    "reason": "It is not running. Start it with: mh ollama start",
}
CONFIG: Final = {
    "backend": "vllm",
    "options": {"model": MODEL, "gpuMemoryUtilization": 0.9},
    "secrets": {"apiKey": True},
    "auto_start": False,
    "revision": 7,
    "schema": {"type": "object", "properties": {"model": {"type": "string"}}},
}
REVISION: Final = {
    "number": 7,
    "options": {"gpuMemoryUtilization": 0.8},
    "changes": [
        {"option": "gpuMemoryUtilization", "before": 0.9, "after": 0.8},
        {"option": "apiKey", "secret": True, "before": False, "after": True},
    ],
    "restored": None,
    "created_at": "2026-11-22T12:00:00+00:00",
    "created_by": "owner",
    "request_id": "4f1c0c6d2c7e4e0f9d0a",
}
PLAN: Final = {
    "backend": "vllm",
    "model": MODEL,
    "verdict": "fits",
    "certain": False,
    "because": "It needs 20.1 of 22.5 GB.",
    "releases": [],
    "memory": "gpu",
    "weights": 15_032_385_536,
    "kv_cache": 4_294_967_296,
    "other": 1_073_741_824,
    "needed": 20_401_094_656,
    "free": None,
    "freed": None,
    "kv_bytes_per_token": 196_608,
    "kv_format": "bfloat16",
    "context_length": 8192,
    "context_fits": 21845,
    "spilled": 0,
    "measured": True,
    "gpus": [
        {
            "index": 0,
            "name": "NVIDIA L4",
            "total": 24_152_899_584,
            "free": 24_000_000_000,
            "freed": 0,
            "takes": 21_737_609_625,
            "needs": 20_401_094_656,
        }
    ],
    "suggestions": [],
    "problems": [],
    "expected_seconds": 42.0,
}
DISK_MODEL: Final = {
    "id": MODEL,
    "path": "/home/mh/.cache/huggingface/hub/models--Qwen--Qwen2.5-14B-Instruct",
    "size_bytes": 29_540_067_328,
    "problem": "",
    "place": "hub",
    "architecture": "Qwen2ForCausalLM",
    "quantization": "",
    "context_length": 32768,
    "loaded": True,
    "configured": True,
}
LOG: Final = {
    "backend": "vllm",
    "lines": ["INFO 03-14 09:26:53 Starting vLLM"],
    "starts": [
        {
            "id": "20260314-092653-1f2e",
            "started_at": TIME,
            "running": True,
            "ended": "",
            "size_bytes": 4096,
        }
    ],
}
SAMPLES: Final = {
    "now": 1_773_480_413,
    "since": 1_773_476_813,
    "until": 1_773_480_413,
    "step": 10,
    "resolution": 10,
    "statistic": "mean",
    "times": [1_773_480_400, 1_773_480_410],
    "series": [
        {
            "node": "local",
            "kind": "gpu",
            "id": "GPU-0",
            "title": "NVIDIA L4",
            "measures": {"memory_used": [20_401_094_656.0, None]},
        }
    ],
}
STARTUP: Final = {
    "behavior": "auto",
    "active": "vllm",
    "auto_start": {"ollama": False, "vllm": True},
}
AVAILABILITY: Final = {"state": "available", "message": ""}
ENTRY: Final = {
    "id": "night.persona",
    "scope": "site",
    "provider": "ollama",
    "model": "qwen3:14b",
    "options": {"temperature": 0},
    "when_off": "wait",
    "capabilities": ["completion", "tools"],
    "description": "",
    "roles": ["persona"],
    "availability": AVAILABILITY,
}
ROLE: Final = {
    "name": "persona",
    "scope": "site",
    "chain": ["night.persona", "default.persona"],
    "options": {},
    "context": "trim",
    "shipped": True,
    "links": [
        {"id": "night.persona", "availability": AVAILABILITY},
        {"id": "default.persona", "availability": AVAILABILITY},
    ],
    "available": True,
}
ACCOUNT: Final = {
    "name": "openrouter",
    "kind": "openai",
    "title": "OpenAI-compatible",
    "ready": True,
    "models": [],
    "why_not": "",
    "settings": {"baseUrl": "https://openrouter.ai/api/v1"},
    "secrets": {"apiKey": True},
    "references": {},
    "check": {"good": True, "message": "", "at": TIME},
    "schema": {"type": "object"},
}
TOKEN: Final = {
    "id": "tok_8f3c1a9b2d4e",
    "name": "notebook",
    "user": "owner",
    "scopes": ["chat"],
    "created_at": TIME,
    "expires_at": None,
    "last_used_at": None,
}
ME: Final = {
    "username": "owner",
    "role": "owner",
    "permissions": ["status:read", "chat"],
    "scopes": [],
    "csrf_token": "vUbWkQkV0bZ9",
}
USER: Final = {
    "username": "stan",
    "role": "standard",
    "active": True,
    "created_at": TIME,
    "last_login_at": None,
}
EVENT: Final = {
    "id": 1,
    "uid": OPERATION_ID,
    "created_at": TIME,
    "event": "operation.requested",
    "category": "operation",
    "level": "info",
    "outcome": "success",
    "actor": "owner",
    "surface": "rest",
    "source_address": "127.0.0.1",
    "request_id": REQUEST_ID,
    "target_type": "operation",
    "target_id": OPERATION_ID,
    "message": "switch vllm",
    "before": None,
    "after": {"kind": "switch", "backend": "vllm", "request": {}},
    "previous_hash": "0" * 64,
    "hash": "9f" * 32,
}
USED: Final = {
    "id": 1,
    "at": TIME,
    "user": "stan",
    "token": "",
    "surface": "rest",
    "request_id": REQUEST_ID,
    "role": "persona",
    "entry": "default.persona",
    "provider": "vllm",
    "backend": "vllm",
    "model": MODEL,
    "kind": "chat",
    "outcome": "done",
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "reasoning_tokens": None,
    "total_tokens": 46,
    "estimated": False,
    "queued_ms": 1.2,
    "ttft_ms": 48.5,
    "total_ms": 910.0,
    "attempts": 1,
}
QUOTA: Final = {
    "user": "stan",
    "requests_per_minute": 60,
    "tokens_per_day": None,
    "tokens_per_month": None,
    "effective": {"requests_per_minute": 60, "tokens_per_day": 0, "tokens_per_month": 0},
    "used": {"requests_this_minute": 1, "tokens_this_day": 46, "tokens_this_month": 46},
}
MESSAGES: Final = [{"role": "user", "content": "Why is the sky blue?"}]
SAID: Final = {"role": "assistant", "content": "Because of Rayleigh scattering."}
CHAT_ANSWER: Final = {
    "content": SAID["content"],
    "reasoning": "",
    "tool_calls": [],
    "model": MODEL,
    "provider": "vllm",
    "backend": "vllm",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46},
    "timings": {"queued_ms": 1.2, "ttft_ms": 48.5, "total_ms": 910.0},
    "request_id": REQUEST_ID,
}
CHAT_STREAM: Final = [
    {
        "type": "start",
        "model": MODEL,
        "provider": "vllm",
        "backend": "vllm",
        "request_id": REQUEST_ID,
    },
    {"type": "token", "content": "Because"},
    {
        "type": "done",
        "finish_reason": "stop",
        "usage": CHAT_ANSWER["usage"],
        "timings": CHAT_ANSWER["timings"],
    },
]
CARD: Final = {"id": "role:persona", "object": "model", "created": 0, "owned_by": "mh"}
OLLAMA_CARD: Final = {"name": "role:persona", "model": "role:persona", "size": 0}
OLLAMA_HEAD: Final = {"model": "role:persona", "created_at": "2026-03-14T09:26:53.589793Z"}
