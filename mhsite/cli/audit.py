"""``mh audit …``"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mhsite.cli.output import Json, Output, print_error

if TYPE_CHECKING:
    from audit.selectors import EventPayload

app = typer.Typer(help="Who did what: see it, prove it, take it away.", no_args_is_help=True)
FOLLOW_SECONDS: Final = 0.5


@app.command()
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000)] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens from now.")
    ] = False,
    event: Annotated[
        str, typer.Option("--event", help="Only this event, or those below it: operation")
    ] = "",
    *,
    as_json: Json = False,
) -> None:
    """Show the last events, oldest first."""
    from mhsite.cli.context import site_ready

    site_ready()
    from audit import selectors

    chosen = selectors.EventFilters(event=event)
    found = list(reversed(selectors.events(chosen)[:lines]))
    payload = [selectors.event_payload(row) for row in found]
    out = Output(as_json=as_json)
    out.result({"events": payload}, *(_line(row) for row in payload))
    last = found[-1].pk if found else 0
    while follow and not as_json:
        time.sleep(FOLLOW_SECONDS)
        for row in selectors.events(chosen).filter(pk__gt=last).order_by("id"):
            typer.echo(_line(selectors.event_payload(row)))
            last = row.pk


def _line(row: "EventPayload") -> str:
    outcome = "" if row["outcome"] == "success" else f" [{row['outcome']}]"
    target = f" {row['target_type']}:{row['target_id']}" if row["target_id"] else ""
    message = f" {row['message']}" if row["message"] else ""
    when = row["created_at"][:19].replace("T", " ")
    return f"{when} {row['actor']} {row['event']}{target}{outcome}{message}"


@app.command()
def verify(*, as_json: Json = False) -> None:
    """Compute the chain of hashes again. Exit status 1 when an event was changed or removed."""
    from mhsite.cli.context import site_ready

    site_ready()
    from audit import selectors

    report = selectors.chain_verify()
    out = Output(as_json=as_json)
    if report.ok:
        out.result(asdict(report), f"{report.checked} events, none changed. Head: {report.head}")
        return
    message = f"Event {report.first_bad} is not what was written: {report.reason}"
    if as_json:
        out.result(asdict(report))
    else:
        print_error({"message": message}, as_json=False)
    raise typer.Exit(1)


@app.command()
def export(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; standard output by default."),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Write all events as JSON, one a line, oldest first."""
    from mhsite.cli.context import site_ready

    site_ready()
    from audit import selectors

    count = 0
    stream = sys.stdout if output is None else output.open("w")
    try:
        for count, row in enumerate(selectors.events_oldest_first(), start=1):  # noqa: B007
            stream.write(json.dumps(selectors.event_payload(row), ensure_ascii=False) + "\n")
    finally:
        if output is not None:
            stream.close()
    if output is not None:
        Output(as_json=as_json).result(
            {"events": count, "file": str(output)}, f"{count} events written to {output}."
        )
