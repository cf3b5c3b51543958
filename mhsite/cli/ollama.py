"""``mh ollama …``: what every engine has, and a description of a model."""

from mhsite.cli import engine_models
from mhsite.cli.engine_group import group
from mhsite.cli.output import Json, Output

NAME = "ollama"

app = group(NAME, "Ollama", "Ollama: start, stop and look at it, and after its models.")


@app.command()
def show(model: engine_models.Model, *, as_json: Json = False) -> None:
    """Show what Ollama knows of a model."""
    engine_models.show(NAME, model, Output(as_json=as_json))
