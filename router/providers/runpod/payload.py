"""A chat as the input of a job."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from router.providers.base import ChatCall
from router.providers.openai_compatible import CHAT_PATH, chat_payload
from router.providers.runpod.settings import RunPodSettings

#: What both generations of vLLM workers take as ``sampling_params``, by vLLM's names, which are OpenAI's.
SAMPLING: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "max_tokens",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    }
)

#: What other engines have and an answer does not depend on; left out where a job cannot carry it.
_LEFT_OUT: Final = frozenset(
    {"num_ctx", "keep_alive", "think", "reasoning_effort", "chat_template_kwargs"}
)


def job_payload(call: ChatCall, settings: RunPodSettings) -> dict[str, Any]:
    """Return the body of ``/run``. Times of the policy are milliseconds."""
    whole = settings.job_input == "request"
    return {
        "input": _request_input(call, settings) if whole else _messages_input(call, settings),
        "policy": {
            "executionTimeout": settings.execution_timeout * 1000,
            "ttl": settings.ttl * 1000,
        },
    }


def asked_tokens(call: ChatCall, settings: RunPodSettings) -> int:
    """Return the longest answer the job is allowed, in tokens."""
    return int(call.options.get("max_tokens") or settings.max_tokens)


def not_in_messages(call: ChatCall) -> str:
    """Name what ``call`` has and ``jobInput: messages`` cannot carry; empty where there is nothing."""
    if call.tools or any("tool_calls" in message for message in call.messages):
        return "tools"
    if any(_has_more_than_text(message.get("content")) for message in call.messages):
        return "images"
    beyond = sorted(call.options.keys() - SAMPLING - _LEFT_OUT)
    return f"option {beyond[0]}" if beyond else ""


def has_format(call: ChatCall) -> bool:
    """Say whether the answer must have a form: ``jobInput: messages`` can only tell the model so."""
    return call.format is not None and call.format != "text"


def _request_input(call: ChatCall, settings: RunPodSettings) -> dict[str, Any]:
    body = {"max_tokens": settings.max_tokens, **chat_payload(call)}
    return {"route": CHAT_PATH, "method": "POST", "body": body}


def _messages_input(call: ChatCall, settings: RunPodSettings) -> dict[str, Any]:
    sampling = {name: value for name, value in call.options.items() if name in SAMPLING}
    return {
        "messages": [_plain(message) for message in call.messages],
        "sampling_params": {**sampling, "max_tokens": asked_tokens(call, settings)},
        "stream": True,
    }


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``message`` with its content as one text: chat templates of older models know no parts."""
    content = message.get("content")
    if not isinstance(content, str) and isinstance(content, Sequence):
        content = "\n".join(str(part.get("text", "")) for part in content)
    return {**message, "content": content or ""}


def _has_more_than_text(content: object) -> bool:
    if isinstance(content, str) or not isinstance(content, Sequence):
        return False
    return any(part.get("type") != "text" for part in content)
