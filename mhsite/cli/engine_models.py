"""Commands about an engine's models: list, download, delete, describe."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mhsite.cli.context import owner_actor, site_ready
from mhsite.cli.operations import perform, step_phrase
from mhsite.cli.output import Json, Output, size

if TYPE_CHECKING:
    from backends.inventory import ModelPayload
    from backends.payloads import OperationPayload

    Tell = Callable[[OperationPayload], None]

Model = Annotated[str, typer.Argument(help="The model's name.")]
Query = Annotated[str, typer.Argument(help="Part of a name.")]
Force = Annotated[bool, typer.Option("--force", help="Also where it is the configured model.")]
#: Seconds between two lines about a download that nobody looks at.
_LINE_SECONDS = 5.0


def commands(app: typer.Typer, name: str, title: str) -> None:
    """Add the commands to those of engine ``name``."""

    @app.command(help=f"List the models on this machine that {title} can serve.")
    def models(query: Query = "", *, as_json: Json = False) -> None:
        list_(name, query, Output(as_json=as_json))

    @app.command(
        help=f"Download a model for {title}; go on where an earlier download of it ended. Ctrl-C cancels."
    )
    def pull(model: Model, *, as_json: Json = False) -> None:
        pull_(name, model, Output(as_json=as_json))

    @app.command(help=f"Delete a model of {title} from this machine; not one that is in use.")
    def rm(model: Model, *, force: Force = False, as_json: Json = False) -> None:
        delete(name, model, force=force, out=Output(as_json=as_json))


def list_(name: str, query: str, out: Output) -> None:
    """List the models on this machine that an engine can serve."""
    site_ready()
    from backends import inventory

    found = inventory.model_list(name, query)
    columns = ("model", "size", "quantization", "context", "where", "remark")
    rows = [_row(model) for model in found]
    out.table({"models": found}, columns, rows, empty="No models found.")


def _row(model: "ModelPayload") -> tuple[str, ...]:
    context = model["context_length"]
    now = [word for word in ("loaded", "configured") if model[word]]
    return (
        model["id"],
        size(model["size_bytes"]),
        model["quantization"],
        str(context) if context else "",
        model["place"],
        model["problem"] or ", ".join(now),
    )


def pull_(name: str, model: str, out: Output) -> None:
    """Download a model, with its bytes shown."""
    site_ready()
    from backends import services

    with _shown(out) as tell:
        payload = perform(
            services.model_pull, out, tell, actor=owner_actor(), name=name, model=model
        )
    said = payload["steps"][-1]["message"]
    out.result(payload, f"{model} is here ({said}).")


def delete(name: str, model: str, *, force: bool, out: Output) -> None:
    """Delete a model."""
    site_ready()
    from backends import services

    payload = perform(
        services.model_delete, out, actor=owner_actor(), name=name, model=model, force=force
    )
    out.result(payload, f"{model} is deleted.")


def show(name: str, model: str, out: Output) -> None:
    """Describe a model, as its engine does."""
    site_ready()
    from dataclasses import asdict

    import httpx

    from accounts.errors import MhError
    from backends import selectors
    from backends.operations import library

    backend = selectors.backend_get(name)
    engine = selectors.backend_engine(backend)
    try:
        with library.server(backend) as target:
            details = asdict(engine.show(target, model, timeout=10.0))
    except httpx.HTTPError as exc:
        raise MhError(f"{engine.title} does not answer: {exc}") from exc
    out.result(details, *_lines(details))


def _lines(details: dict[str, Any]) -> Iterator[str]:
    plain = ("id", "family", "parameters", "quantization", "context_length", "capabilities")
    for key in plain:
        value = details[key]
        text = ", ".join(value) if isinstance(value, tuple) else value
        if text:
            yield f"{key.replace('_', ' ').capitalize()}: {text}"
    for key in ("defaults", "template", "license"):
        if text := str(details[key]).strip():
            yield f"{key.capitalize()}:"
            yield from (f"    {line}" for line in text.splitlines())


@contextmanager
def _shown(out: Output) -> "Iterator[Tell | None]":
    """Show a download: a bar of bytes for a person, a line now and then when piped."""
    if out.as_json:
        yield None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _LinesNowAndThen()


@contextmanager
def _bar() -> "Iterator[Tell]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.fields[model]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=1.0, model="")

        def tell(payload: "OperationPayload") -> None:
            said = payload["steps"][-1]["message"] if payload["steps"] else step_phrase(payload)
            progress.update(
                task,
                completed=payload["progress"],
                description=f"{said}{_left(payload)}",
                model=payload["model"] or "",
            )

        yield tell


def _left(payload: "OperationPayload") -> str:
    seconds = payload["eta_seconds"]
    if not seconds:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f", {minutes} min {rest} s left" if minutes else f", {rest} s left"


class _LinesNowAndThen:
    """Says a new step at once, and within a step how far it is every few seconds."""

    def __init__(self) -> None:
        self._said = self._step = ""
        self._next = 0.0

    def __call__(self, payload: "OperationPayload") -> None:
        phrase, step = step_phrase(payload), payload["step"] or payload["state"]
        due = step != self._step or time.monotonic() >= self._next
        if due and phrase != self._said:
            self._said, self._step = phrase, step
            self._next = time.monotonic() + _LINE_SECONDS
            typer.echo(phrase, err=True)
