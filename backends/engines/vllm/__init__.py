"""vLLM, as an engine plugin."""
