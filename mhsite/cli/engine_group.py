"""The group of commands every engine has: ``mh vllm …``, ``mh ollama …``."""

from typing import Annotated

import typer

from mhsite.cli import engine, engine_doctor, engine_models, planning
from mhsite.cli.output import Json, Output

Model = Annotated[str | None, typer.Argument(help="Model to serve; the configured one by default.")]
Options = Annotated[
    list[str],
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="Change an option; may be repeated."),
]
Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000)]
Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on with what is written from now.")
]
Start = Annotated[
    str, typer.Option("--start", metavar="ID", help="The log of this start, as --starts lists it.")
]
Starts = Annotated[bool, typer.Option("--starts", help="List the starts whose logs are kept.")]
Key = Annotated[str | None, typer.Argument(help="Option to show or set.")]
Value = Annotated[str | None, typer.Argument(help="New value; null for the default.")]


Apply = Annotated[
    bool,
    typer.Option(
        "--apply", help="Have what runs run with it, restarted only where that is needed."
    ),
]


def group(name: str, title: str, summary: str) -> typer.Typer:
    """Return the commands of engine ``name``, which people know as ``title``."""
    app = typer.Typer(help=summary, no_args_is_help=True)
    _changes(app, name, title)
    _looks(app, name, title)
    engine_models.commands(app, name, title)
    engine_doctor.commands(app, name, title)
    return app


def _changes(app: typer.Typer, name: str, title: str) -> None:
    @app.command(help=f"Start {title} and wait until it answers. Ctrl-C cancels the start.")
    def start(model: Model = None, option: Options = [], *, as_json: Json = False) -> None:  # noqa: B006
        engine.start(name, model, engine.option_pairs(option), Output(as_json=as_json))

    @app.command(
        help=f"Stop {title}: requests under way finish, within a bound; then nothing of it is left."
    )
    def stop(*, as_json: Json = False) -> None:
        engine.stop(name, Output(as_json=as_json))

    @app.command(
        help=f"Have {title} serve another model; if that fails, it serves the one before again. When it "
        "is not running, the model is kept for its next start."
    )
    def switch(
        model: Annotated[str, typer.Argument(help="Model to serve.")], *, as_json: Json = False
    ) -> None:
        engine.change_model(name, model, Output(as_json=as_json))

    @app.command(help=f"Stop {title} and start it again with its current options.")
    def restart(*, as_json: Json = False) -> None:
        engine.restart(name, Output(as_json=as_json))

    @app.command(
        help=f"Show {title}'s options, show one, or set one. What runs keeps its options until it is "
        "restarted, or until --apply."
    )
    def config(
        key: Key = None, value: Value = None, *, apply: Apply = False, as_json: Json = False
    ) -> None:
        engine.config(name, key, value, Output(as_json=as_json), apply=apply)


def _looks(app: typer.Typer, name: str, title: str) -> None:
    @app.command(help=f"Show how {title} is. Exit status 3 when it is not running.")
    def status(*, as_json: Json = False) -> None:
        engine.status(name, Output(as_json=as_json))

    @app.command(
        help=f"Say whether {title} would fit into memory, from the model's own files. Exit status 1 when it "
        "does not. Changes nothing."
    )
    def plan(model: Model = None, option: Options = [], *, as_json: Json = False) -> None:  # noqa: B006
        planning.plan(name, model, engine.option_pairs(option), Output(as_json=as_json))

    @app.command(help=f"Show {title}'s log: of the running start, else of the last one.")
    def logs(
        lines: Lines = 50,
        *,
        follow: Follow = False,
        start: Start = "",
        starts: Starts = False,
        as_json: Json = False,
    ) -> None:
        out = Output(as_json=as_json)
        if starts:
            engine.starts(name, out)
        else:
            engine.logs(name, lines, follow=follow and not start, start=start, out=out)
