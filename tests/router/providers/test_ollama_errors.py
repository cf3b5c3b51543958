"""Ollama's errors as ours, on what real servers were recorded to say."""

import json

import pytest

from router.providers.ollama_errors import refusal_error


def told(text: object) -> bytes:
    return json.dumps({"error": text}).encode()


def nested(**inner: object) -> bytes:
    return told(json.dumps({"error": inner}))


NO_IMAGES = nested(
    code=400,
    message="Multimodal data provided, but model does not support multimodal requests.",
    type="invalid_request_error",
)
TOO_LONG = nested(
    code=400,
    message="request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    type="exceed_context_size_error",
    n_prompt_tokens=5000,
    n_ctx=4096,
)
GARBAGE = (
    "llama-server process has terminated: exit status 1: error loading model: llama_model_loader:"
    " failed to load model from /var/lib/ollama/models/blobs/sha256-941f"
)


@pytest.mark.parametrize(
    ("status", "body", "ours", "code", "says"),
    [
        (404, told("model 'qwen3' not found"), 404, "model_not_found", "mh ollama pull qwen3"),
        (404, told('model "qwen3" not found, try pulling it first'), 404, "model_not_found", "'qwen3'"),
        (404, b"404 page not found", 502, "engine_too_old", "Update"),
        (400, told("registry.ollama.ai/library/q:1 does not support tools"), 400, "not_supported", "call tools"),
        (400, told('"qwen3" does not support thinking'), 400, "not_supported", "think"),
        (400, told('"qwen3" does not support chat'), 400, "not_supported", "chat"),
        (400, NO_IMAGES, 400, "not_supported", "see images"),
        (501, told("This server does not support embeddings. Start it with `--embeddings`"), 400, "not_supported", "embed"),
        (400, TOO_LONG, 400, "context_length_exceeded", "has 5000 tokens; the model takes 4096"),
        (400, told("the input length exceeds the context length"), 400, "context_length_exceeded", "too long"),
        (500, told('option "num_predict" must be of type integer'), 400, "invalid_request", "num_predict"),
        (500, told(GARBAGE), 502, "model_load_failed", "mh ollama logs"),
        (500, told("unable to load model: /var/lib/ollama/models/blobs/sha256-94"), 502, "model_load_failed", "log"),
        (500, told('tensor "blk" offset+size (49600576) exceeds file size (49181216)'), 502, "model_load_failed", "log"),
        (500, told("model requires more system memory (20 GiB) than is available (8 GiB)"), 503, "engine_out_of_memory", "memory"),
        (503, told("server busy, please try again.  maximum pending requests exceeded"), 503, "engine_unavailable", "full"),
        (403, b"", 502, "upstream_refused_key", "OLLAMA_ORIGINS"),
        (401, told("unauthorized"), 502, "upstream_refused_key", "sign-in"),
        (429, b"", 429, "too_many_requests", "too much"),
        (400, told('time: invalid duration "banana"'), 400, "refused_by_engine", "banana"),
        (400, b"", 400, "refused_by_engine", "did not accept"),
        (500, b"<html>", 502, "upstream_failed", "log"),
        (502, told({"message": "odd"}), 502, "upstream_failed", "log"),
    ],
)  # fmt: skip
def test_each_is_one_of_ours(status: int, body: bytes, ours: int, code: str, says: str) -> None:
    error = refusal_error(status, body, model="qwen3")
    assert (error.status, error.code) == (ours, code)
    assert says in error.message


def test_nothing_of_its_insides_is_passed_on() -> None:
    for body in (told(GARBAGE), told("open /var/lib/ollama/models/x: permission denied")):
        for status in (400, 500):
            assert "/var" not in refusal_error(status, body, model="m").message


def test_when_to_try_again_is_passed_on() -> None:
    assert refusal_error(503, b"", model="m", retry_after="7").retry_after == 7
    assert refusal_error(429, b"", model="m", retry_after="soon").retry_after is None
