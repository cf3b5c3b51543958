"""``mh ollama …``: what every engine has."""

from mhsite.cli.engine_group import group

app = group("ollama", "Ollama", "Ollama: start, stop and look at it.")
