"""``mh backend …``: whichever engine it is."""

from typing import Annotated

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(help="The backends: see them, start them, stop them.", no_args_is_help=True)
Name = Annotated[str | None, typer.Argument(help="Backend; the active one by default.")]


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show the active backend. Exit status 3 when it is not running."""
    from mhsite.cli import engine

    engine.status(_chosen(None), Output(as_json=as_json))


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the backends and how they are."""
    from mhsite.cli.context import site_ready

    site_ready()
    from backends import selectors

    available = selectors.status()["available"]
    rows = [
        (name, row["state"], row["model"] or "", row["version"], row["failure"] or row["reason"])
        for name, row in available.items()
    ]
    columns = ("backend", "state", "model", "version", "remark")
    Output(as_json=as_json).table({"backends": available}, columns, rows, empty="No backends.")


@app.command()
def detect(*, as_json: Json = False) -> None:
    """Look which engines are installed and running on this machine, and why not."""
    from mhsite.cli import choosing

    choosing.detect(Output(as_json=as_json))


@app.command()
def auto(*, as_json: Json = False) -> None:
    """Take the engine that runs, else one that is installed, vLLM before Ollama, and switch to it."""
    from mhsite.cli import choosing

    choosing.auto(Output(as_json=as_json))


@app.command()
def startup(
    behavior: Annotated[
        str | None, typer.Argument(help="auto, fallback, or the name of a backend.")
    ] = None,
    auto_start: Annotated[
        list[str], typer.Option("--auto-start", metavar="NAME", help="Start it when it is chosen.")
    ] = [],  # noqa: B006
    no_auto_start: Annotated[
        list[str], typer.Option("--no-auto-start", metavar="NAME", help="Do not start it.")
    ] = [],  # noqa: B006
    *,
    as_json: Json = False,
) -> None:
    """Show or say which backend is the active one when the site comes up, and which are started then."""
    from mhsite.cli import choosing

    wanted = dict.fromkeys(auto_start, True) | dict.fromkeys(no_auto_start, False)
    choosing.startup(behavior, wanted, Output(as_json=as_json))


@app.command()
def start(name: Name = None, *, as_json: Json = False) -> None:
    """Start a backend and wait until it answers."""
    from mhsite.cli import engine

    engine.start(_chosen(name), None, {}, Output(as_json=as_json))


@app.command()
def stop(name: Name = None, *, as_json: Json = False) -> None:
    """Stop a backend."""
    from mhsite.cli import engine

    engine.stop(_chosen(name), Output(as_json=as_json))


@app.command()
def switch(
    name: Annotated[str, typer.Argument(help="Backend to switch to.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Model to serve; the configured one by default.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Stop the backend that runs and start another one; if that fails, the old one is started again."""
    from mhsite.cli import engine

    engine.switch(name, model, Output(as_json=as_json))


def _chosen(name: str | None) -> str:
    """Return ``name``, else the backend that is active or would be."""
    from mhsite.cli.context import site_ready

    if name is not None:
        return name
    site_ready()
    from backends import selectors
    from backends.errors import BackendNotRunning

    active = selectors.status()["active"]["backend"]
    if active is None:
        raise BackendNotRunning("No backend is chosen. Name one: mh backend start NAME")
    return active
