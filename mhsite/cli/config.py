"""``mh config …``: the files of settings, and what the database says."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mhsite.cli.output import Json, Output

app = typer.Typer(
    help="Settings as files: llm-backend.json, deployment.json, models.json.", no_args_is_help=True
)

_From = Annotated[
    Path | None,
    typer.Argument(
        metavar="[PATH]", help="A folder of the files, or one of them; etc/ by default."
    ),
]


@app.command("import")
def import_(path: _From = None, *, as_json: Json = False) -> None:
    """Read the files into the database: all of them, or nothing. ${NAME} is read from the environment."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from mhsite import settings_files

    files = settings_files.files_in(path or _etc())
    left_out = settings_files.settings_import(owner_actor(), files)
    out = Output(as_json=as_json)
    for sentence in left_out:
        out.note(sentence)
    out.result(
        {"imported": list(files), "left_out": left_out}, *(f"{name} is read in." for name in files)
    )


@app.command()
def export(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Where to write them; standard output by default."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Write what the database says as files. Secrets are references to the environment, or masked."""
    from mhsite.cli.context import site_ready

    site_ready()
    from mhsite import settings_files

    out = Output(as_json=as_json)
    if folder is None:
        found = settings_files.settings_export()
        out.result(found, json.dumps(found, indent=2, ensure_ascii=False))
        return
    written = [str(path) for path in settings_files.settings_write(folder)]
    out.result({"written": written}, *written)


@app.command()
def validate(path: _From = None, *, as_json: Json = False) -> None:
    """Say whether the files could be read in, and if not, why. Changes nothing. Exit status 1: not."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from mhsite import settings_files

    found = settings_files.settings_check(owner_actor(), settings_files.files_in(path or _etc()))
    good = not any(found.values())
    payload = {"good": good, "files": found}
    lines = [f"✗ {name}: {why}" if why else f"✓ {name}" for name, why in found.items()]
    Output(as_json=as_json).result(payload, *lines)
    if not good:
        raise typer.Exit(1)


@app.command()
def diff(path: _From = None, *, as_json: Json = False) -> None:
    """Show what reading the files in would change. Exit status 1 where that is something."""
    from mhsite.cli.context import owner_actor, site_ready

    site_ready()
    from mhsite import settings_files

    files = settings_files.files_in(path or _etc())
    found = settings_files.settings_difference(owner_actor(), files)
    payload = [
        {
            "file": one.file,
            "path": one.path,
            "in_file": one.in_file,
            "in_database": one.in_database,
        }
        for one in found
    ]
    rows = [(one.file, one.path, _shown(one.in_database), _shown(one.in_file)) for one in found]
    columns = ("file", "setting", "database", "file says")
    Output(as_json=as_json).table({"differences": payload}, columns, rows, empty="No differences.")
    if found:
        raise typer.Exit(1)


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _etc() -> Path:
    from mhsite import home

    return home.REPOSITORY / "etc"
