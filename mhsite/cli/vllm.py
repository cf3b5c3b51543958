"""``mh vllm …``"""

from typing import Annotated

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(help="vLLM: install, start, stop and look at it.", no_args_is_help=True)
NAME = "vllm"

Model = Annotated[str | None, typer.Argument(help="Model to serve; the configured one by default.")]
Options = Annotated[
    list[str],
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="Change an option; may be repeated."),
]


@app.command()
def install(*, as_json: Json = False) -> None:
    """Install vLLM: the CUDA build where an NVIDIA GPU is seen, else the CPU build and a demo model."""
    from mhsite.cli import engine

    engine.install(NAME, Output(as_json=as_json))


@app.command()
def start(model: Model = None, option: Options = [], *, as_json: Json = False) -> None:  # noqa: B006
    """Start vLLM and wait until it answers. Ctrl-C cancels the start."""
    from mhsite.cli import engine

    engine.start(NAME, model, engine.option_pairs(option), Output(as_json=as_json))


@app.command()
def stop(*, as_json: Json = False) -> None:
    """Stop vLLM: requests under way finish, within a bound; then nothing of it is left."""
    from mhsite.cli import engine

    engine.stop(NAME, Output(as_json=as_json))


@app.command()
def restart(*, as_json: Json = False) -> None:
    """Stop vLLM and start it again with its current options."""
    from mhsite.cli import engine

    engine.restart(NAME, Output(as_json=as_json))


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show how vLLM is. Exit status 3 when it is not running."""
    from mhsite.cli import engine

    engine.status(NAME, Output(as_json=as_json))


@app.command()
def models(
    query: Annotated[str, typer.Argument(help="Part of a name.")] = "", *, as_json: Json = False
) -> None:
    """List the models on this machine that vLLM can serve."""
    from mhsite.cli import engine

    engine.models(NAME, query, Output(as_json=as_json))


@app.command()
def logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000)] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written from now.")
    ] = False,
    *,
    as_json: Json = False,
) -> None:
    """Show vLLM's log: of the running start, else of the last one."""
    from mhsite.cli import engine

    engine.logs(NAME, lines, follow=follow, out=Output(as_json=as_json))


@app.command()
def config(
    key: Annotated[str | None, typer.Argument(help="Option to show or set.")] = None,
    value: Annotated[str | None, typer.Argument(help="New value; null for the default.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show vLLM's options, show one, or set one. What runs keeps its options until it is restarted."""
    from mhsite.cli import engine

    engine.config(NAME, key, value, Output(as_json=as_json))
