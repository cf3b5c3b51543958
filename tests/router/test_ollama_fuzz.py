"""Whatever a client or a provider sends is understood or refused; nothing is a fault of ours."""

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.errors import MhError
from router.ollama_requests import OllamaEmbed, OllamaShow, chat_asked, generate_asked
from router.openai_translation import chat_call
from router.providers.ollama_completion import completion_payload
from router.providers.ollama_errors import refusal_error
from router.providers.ollama_payload import chat_payload
from router.providers.ollama_stream import OllamaReader
from router.schemas import OpenAIChat, OpenAICompletion, parse

WORDS = [
    "model",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "image_url",
    "url",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "tools",
    "tool_choice",
    "response_format",
    "json_schema",
    "schema",
    "stop",
    "n",
    "suffix",
    "prompt",
    "images",
    "options",
    "think",
    "reasoning_effort",
    "stream_options",
    "keep_alive",
    "format",
    "logprobs",
    "top_logprobs",
    "top_k",
    "num_predict",
    "message",
    "thinking",
    "done",
    "done_reason",
    "error",
    "index",
    "token",
    "logprob",
    "eval_count",
    "input",
    "dimensions",
    "system",
    "raw",
    "tool_name",
    "tool_call_id",
    "chat_template_kwargs",
    "enable_thinking",
]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(allow_nan=False),
    st.sampled_from(["", "user", "tool", "assistant", "text", "image_url", "json", "m", "[DONE]"]),
    st.text(max_size=4),
)
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"])},
        optional=dict.fromkeys(
            ("content", "images", "tool_calls", "tool_name", "tool_call_id", "name"), anything
        ),
    ),
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={**dict.fromkeys(WORDS[10:], anything), "messages": messages, "prompt": anything},
)


@settings(deadline=None, max_examples=120)
@given(bodies)
def test_requests(body: dict[str, Any]) -> None:
    with contextlib.suppress(MhError):
        chat_asked(body)
    with contextlib.suppress(MhError):
        generate_asked(body)
    for model in (OllamaEmbed, OllamaShow):
        with contextlib.suppress(MhError):
            parse(model, body)
    with contextlib.suppress(MhError):
        parse(OpenAIChat, body, always_400=True)
        json.dumps(chat_payload(chat_call(body, model="m", options={}, request_id="r")))
    with contextlib.suppress(MhError):
        parse(OpenAICompletion, body, always_400=True)
        json.dumps(completion_payload(body, stream=True))


@settings(deadline=None, max_examples=120)
@given(st.lists(st.one_of(st.dictionaries(st.sampled_from(WORDS), anything), anything), max_size=4))
def test_answers(items: list[Any]) -> None:
    reader = OllamaReader("m", "r")
    for item in items:
        with contextlib.suppress(MhError):
            reader.feed(json.dumps(item).encode() + b"\n")
        for status in (400, 404, 500):
            assert refusal_error(status, json.dumps(item).encode(), model="m").message
            assert refusal_error(status, json.dumps({"error": item}).encode(), model="m").message
    with contextlib.suppress(MhError):
        reader.end()
