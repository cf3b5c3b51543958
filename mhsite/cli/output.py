"""How commands answer: one JSON object, tables when a person looks, tab-separated lines when piped."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from accounts.errors import ErrorBody

#: On every command.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

KIB = 1024


class Output:
    """One command's answer."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, payload: Any, *lines: str) -> None:
        """Answer with ``payload``, or for people with ``lines``."""
        if self.as_json:
            typer.echo(json.dumps(payload, indent=2, ensure_ascii=False, default=_plain))
        else:
            for line in lines:
                typer.echo(line)

    def table(
        self, payload: Any, columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str
    ) -> None:
        """Answer with ``payload``, or for people with a table.

        Args:
            payload: the JSON answer.
            columns: headings.
            rows: cells as text.
            empty: what to say when there are no rows.
        """
        found = list(rows)
        if self.as_json:
            self.result(payload)
        elif not found:
            self.note(empty)
        elif sys.stdout.isatty():
            _rich_table(columns, found)
        else:
            for row in found:
                typer.echo("\t".join(row))

    def note(self, message: str) -> None:
        """Tell a person something that is not the answer; goes to standard error."""
        if not self.as_json:
            typer.echo(message, err=True)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def print_error(body: ErrorBody | Mapping[str, Any], *, as_json: bool, detail: str = "") -> None:
    """Say what went wrong: a line on standard error, or the error object on standard output."""
    if as_json:
        error = {**body, "detail": detail} if detail else {**body}
        typer.echo(json.dumps({"error": error}, ensure_ascii=False))
        return
    typer.echo(f"mh: {body['message']}", err=True)
    if detail and detail not in str(body["message"]):
        typer.echo(f"    {detail}", err=True)


def size(count: int) -> str:
    """Return bytes for a person, in powers of 1024: ``12.4GB``."""
    amount, unit = float(count), "B"
    for bigger in ("KB", "MB", "GB", "TB"):
        if amount < KIB:
            break
        amount, unit = amount / KIB, bigger
    return f"{amount:.1f}".removesuffix(".0") + unit
