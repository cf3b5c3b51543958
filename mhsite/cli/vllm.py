"""``mh vllm …``: what every engine has, and its installation."""

from mhsite.cli import engine
from mhsite.cli.engine_group import group
from mhsite.cli.output import Json, Output

NAME = "vllm"

app = group(NAME, "vLLM", "vLLM: install, start, stop and look at it.")


@app.command()
def install(*, as_json: Json = False) -> None:
    """Install vLLM: the CUDA build where an NVIDIA GPU is seen, else the CPU build and a demo model."""
    engine.install(NAME, Output(as_json=as_json))
