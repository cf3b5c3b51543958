"""vLLM, and every other engine of ours that speaks OpenAI's API."""

from collections.abc import Mapping
from typing import Any, ClassVar

from router.providers.base import Capabilities
from router.providers.openai_compatible import OPENAI_PATHS, OpenAICompatible
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
    )

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return our options by vLLM's names."""
        return openai_options(options, template_switch=True)
