"""How far an installation is: a bar for a person, lines when piped, nothing under ``--json``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from backends.engines.base import InstallReport
from mhsite.cli.output import Output

#: Lines are printed when the message changes, and every so many percent of the same one.
LINE_EVERY_PERCENT = 5


@contextmanager
def install_report(out: Output) -> Iterator[InstallReport]:
    """Give an installation something to report to."""
    if out.as_json:
        yield _Silent()
    elif sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns) as progress:
            yield _Bar(progress, progress.add_task("starting", total=1.0))
    else:
        yield _Lines()


class _Silent(InstallReport):
    def __call__(self, fraction: float, message: str) -> None:
        del fraction, message


class _Bar(InstallReport):
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def __call__(self, fraction: float, message: str) -> None:
        self._progress.update(self._task, completed=fraction, description=message)


class _Lines(InstallReport):
    def __init__(self) -> None:
        self._said = ("", -LINE_EVERY_PERCENT)

    def __call__(self, fraction: float, message: str) -> None:
        percent = round(fraction * 100)
        last_message, last_percent = self._said
        if message != last_message or percent >= last_percent + LINE_EVERY_PERCENT:
            self._said = (message, percent)
            typer.echo(f"{percent:3d} % {message}")
            sys.stdout.flush()
