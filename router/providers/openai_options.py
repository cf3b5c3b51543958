"""Our options in the words of OpenAI-compatible APIs. Pure.

``numCtx`` and ``keepAlive`` are Ollama's; others would refuse them, or ignore them. ``think`` is
``reasoning_effort`` and, for vLLM, a switch of the model's chat template. Source: OpenAI's API reference,
"Reasoning"; vLLM's documentation, "Reasoning Outputs".
"""

from collections.abc import Mapping
from typing import Any, Final

_OLLAMAS: Final = ("num_ctx", "keep_alive")
#: The switches that chat templates know: Qwen's and Gemma's, and that of Granite and DeepSeek.
_SWITCHES: Final = ("enable_thinking", "thinking")
_MOST: Final = "high"


def openai_options(options: Mapping[str, Any], *, template_switch: bool = False) -> dict[str, Any]:
    """Return ``options`` without what the API does not know.

    Args:
        options: ours, only what is set.
        template_switch: whether ``chat_template_kwargs`` is known.
    """
    found = {name: value for name, value in options.items() if name not in (*_OLLAMAS, "think")}
    think = options.get("think")
    if think is None:
        return found
    if isinstance(think, str):
        found["reasoning_effort"] = _MOST if think == "max" else think
    if template_switch:
        found["chat_template_kwargs"] = dict.fromkeys(_SWITCHES, bool(think))
    return found
