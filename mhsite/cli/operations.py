"""Ask for an operation, and show how it goes until it ends.

The site's worker runs it. Without one, it runs here, with the same steps.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import typer

from accounts.errors import MhError
from mhsite.cli.output import Output, print_error

if TYPE_CHECKING:
    from backends.models import Operation
    from backends.payloads import OperationPayload

    Tell = Callable[[OperationPayload], None]

POLL_SECONDS: Final = 0.1
#: A worker silent for this long will not go on with the operation; it is taken over here.
WORKER_LOST_SECONDS: Final = 10.0
#: Seconds between two looks here at whether an operation that somebody runs has been left.
RUN_AGAIN_SECONDS: Final = 1.0
ENDED_WELL: Final = "succeeded"
OPEN: Final = frozenset({"queued", "running"})
Ask = Callable[..., "Operation"]


def perform(
    ask: Ask, out: Output, tell: "Tell | None" = None, **arguments: Any
) -> "OperationPayload":
    """Ask for an operation by calling ``ask``, follow it, and return it once it has ended.

    ``tell`` gets it again and again meanwhile, and says how it goes in place of the usual progress.

    Ctrl-C asks to cancel it; a second one stops watching.

    Raises:
        MhError: it was refused.
        typer.Exit: it ended otherwise than well, which has been said.
    """
    from backends import selectors

    foreground = not selectors.worker_alive()
    row = ask(foreground=foreground, **arguments)
    payload = Follower(str(row.pk), out, foreground=foreground).follow(tell)
    if payload["state"] != ENDED_WELL:
        _say_why(payload, out)
        raise typer.Exit(1)
    return payload


def _say_why(payload: "OperationPayload", out: Output) -> None:
    error = payload["error"]
    if out.as_json:
        out.result(payload)
    elif error:
        print_error(error, as_json=False, detail=error.get("detail", ""))
    else:
        out.note(f"mh: the {payload['kind']} was {payload['state'].replace('_', ' ')}.")


class Follower:
    """Watches one operation."""

    def __init__(self, operation_id: str, out: Output, *, foreground: bool) -> None:
        self._id = operation_id
        self._out = out
        self._runner: threading.Thread | None = None
        self._worker_seen = self._ran_at = time.monotonic()
        if foreground:
            self._run_here()

    def follow(self, tell: "Tell | None" = None) -> "OperationPayload":
        """Show the steps until the operation ends; return it."""
        with _display(self._out, tell) as show:
            cancelled = False
            while True:
                try:
                    return self._until_ended(show)
                except KeyboardInterrupt:
                    if cancelled:
                        raise
                    cancelled = True
                    self._cancel()

    def _until_ended(self, show: "Callable[[OperationPayload], None]") -> "OperationPayload":
        while True:
            payload = self._read()
            show(payload)
            if payload["state"] not in OPEN:
                self._finish()
                return payload
            self._take_over_if_lost()
            time.sleep(POLL_SECONDS)

    def _read(self) -> "OperationPayload":
        from backends import selectors

        return selectors.operation_payload(selectors.operation_get(self._id))

    def _cancel(self) -> None:
        from backends import services
        from mhsite.cli.context import owner_actor

        self._out.note("Cancelling… (Ctrl-C again to stop watching)")
        services.operation_cancel(actor=owner_actor(), operation_id=self._id)

    def _take_over_if_lost(self) -> None:
        from backends import selectors

        if self._runner is not None and not self._runner.is_alive():
            # Another runner has it, or had: one that was killed is only known by its silence.
            if time.monotonic() - self._ran_at > RUN_AGAIN_SECONDS:
                self._run_here()
        elif self._runner is not None or selectors.worker_alive():
            self._worker_seen = time.monotonic()
        elif time.monotonic() - self._worker_seen > WORKER_LOST_SECONDS:
            self._out.note("The site's worker is gone; going on here.")
            self._run_here()

    def _run_here(self) -> None:
        from backends import selectors

        lane = selectors.operation_get(self._id).lane
        self._runner = threading.Thread(
            target=_run_operations, args=(lane,), name="operations", daemon=True
        )
        self._runner.start()
        self._ran_at = time.monotonic()

    def _finish(self) -> None:
        from backends import bus

        if self._runner is not None:
            self._runner.join(timeout=10)
        bus.flush(timeout=1.0)


def _run_operations(lane: str) -> None:
    from django.conf import settings
    from django.db import connections

    from backends.models import Lane
    from backends.operations.runner import run_operations

    try:
        run_operations(settings.MH_NODE, Lane(lane))
    except MhError as exc:
        print_error(exc.body(""), as_json=False)
    finally:
        connections.close_all()


@contextmanager
def _display(out: Output, tell: "Tell | None") -> "Iterator[Tell]":
    if out.as_json:
        yield lambda _payload: None
    elif tell is not None:
        yield tell
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bar() -> "Iterator[Callable[[OperationPayload], None]]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=1.0)

        def show(payload: "OperationPayload") -> None:
            progress.update(task, completed=payload["progress"], description=step_phrase(payload))

        yield show


def _lines() -> "Callable[[OperationPayload], None]":
    said = ""

    def show(payload: "OperationPayload") -> None:
        nonlocal said
        phrase = step_phrase(payload)
        if phrase != said:
            said = phrase
            typer.echo(phrase, err=True)

    return show


def step_phrase(payload: "OperationPayload") -> str:
    """Return what an operation is doing, for a person."""
    if not payload["steps"]:
        return "waiting for the worker" if payload["state"] == "queued" else payload["state"]
    step = payload["steps"][-1]
    return f"{step['name']}: {step['message']}" if step["message"] else step["name"]
