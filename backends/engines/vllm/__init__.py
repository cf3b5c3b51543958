"""vLLM, as an engine plugin."""

from backends.engines.vllm.engine import VllmEngine
from backends.engines.vllm.options import VllmOptions

__all__ = ["VllmEngine", "VllmOptions"]
