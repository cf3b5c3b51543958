"""vLLM, and every other engine of ours that speaks OpenAI's API."""

from typing import ClassVar

from router.providers.base import Capabilities
from router.providers.openai_compatible import OPENAI_PATHS, OpenAICompatible


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
