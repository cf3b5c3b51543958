"""Ollama, as an engine plugin."""

from backends.engines.ollama.engine import OllamaEngine
from backends.engines.ollama.options import OllamaOptions

__all__ = ["OllamaEngine", "OllamaOptions"]
