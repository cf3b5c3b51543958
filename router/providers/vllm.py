"""vLLM, and every other engine of ours that speaks OpenAI's API."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from backends.engines.base import Target
from router.errors import UpstreamGarbled
from router.providers.base import Capabilities, ChatCall
from router.providers.openai_compatible import OPENAI_PATHS, OpenAICompatible, encode
from router.providers.openai_options import openai_options


class Vllm(OpenAICompatible):
    """vLLM's OpenAI-compatible server."""

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    capabilities: ClassVar[Capabilities] = Capabilities(
        openai_paths=OPENAI_PATHS,
        tools=True,
        images=True,
        embeddings=True,
        schemas=True,
        counts_tokens=True,
        reasons_in_text=True,
    )

    async def count(self, target: Target, call: ChatCall) -> tuple[int, int]:
        """Return the tokens of the prompt as the model's own template makes it, and of the context."""
        payload: dict[str, Any] = {"model": call.model, "messages": list(call.messages)}
        if call.tools:
            payload["tools"] = list(call.tools)
        answer = await self.post(target, "/tokenize", encode(payload), call.request_id)
        try:
            found = json.loads(answer)
            return int(found["count"]), int(found["max_model_len"])
        except (ValueError, KeyError, TypeError) as exc:
            msg = "The engine sent an answer that cannot be read."
            raise UpstreamGarbled(msg) from exc

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return our options by vLLM's names."""
        return openai_options(options, template_switch=True)
