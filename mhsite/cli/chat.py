"""``mh chat``: over the site's own router, as the owner."""

import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mhsite.cli.output import Json, Output

if TYPE_CHECKING:
    from router.events import ChatEvent
    from router.schemas import ChatRequest

_NOT_RUNNING_STATUS = 3


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(chat)


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What to say; read from standard input by default.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", help="Role that shall answer.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model that shall answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    *,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="json|FILE|SCHEMA",
            help="Have the answer in JSON: any object, or as a JSON Schema says, in a file or here.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Chat with whatever answers a role or model, else with the active backend.

    Without a prompt on a terminal it is a conversation, until Ctrl-D.
    """
    if role is not None and model is not None:
        raise typer.BadParameter("give --role or --model, not both")
    from mhsite.cli.context import site_ready

    site_ready()
    from router import usage

    asking = Asking(
        {"role": role, "model": model, "format": _format(format_)},
        {"temperature": temperature, "max_tokens": max_tokens},
        Output(as_json=as_json),
    )
    try:
        if prompt is None and sys.stdin.isatty() and not as_json:
            asking.converse()
        else:
            asking.once(sys.stdin.read() if prompt is None else prompt)
    finally:
        usage.flush()


def _format(given: str | None) -> Any:
    """Return what ``--format`` means for a chat."""
    if given is None or given in {"json", "text"}:
        return given
    import json
    from pathlib import Path

    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        schema = json.loads(text)
    except OSError as exc:
        raise typer.BadParameter(f"{given}: {exc.strerror}", param_hint="--format") from exc
    except ValueError as exc:
        raise typer.BadParameter(f"no JSON: {exc}", param_hint="--format") from exc
    if not isinstance(schema, dict):
        raise typer.BadParameter("a JSON Schema is an object", param_hint="--format")
    return schema


class Asking:
    """One use of the command: who is asked for which format, with which options."""

    def __init__(self, asked: dict[str, Any], options: dict[str, Any], out: Output) -> None:
        self._asked = {key: value for key, value in asked.items() if value is not None}
        self._options = {key: value for key, value in options.items() if value is not None}
        self._out = out
        self._messages: list[dict[str, str]] = []

    def converse(self) -> None:
        """Take turns until the person ends it."""
        while True:
            try:
                prompt = input("> ")
            except EOFError:
                typer.echo("")
                return
            if prompt.strip():
                self.once(prompt)

    def once(self, prompt: str) -> None:
        """Say something and print the answer as it comes; the conversation is remembered."""
        import asyncio

        if not prompt.strip():
            raise typer.BadParameter("there is nothing to say", param_hint="PROMPT")
        self._messages.append({"role": "user", "content": prompt})
        answer = asyncio.run(self._answer())
        self._messages.append({"role": "assistant", "content": answer})

    def _request(self) -> "ChatRequest":
        from router.schemas import ChatRequest, parse

        data = {**self._asked, "messages": self._messages, "options": self._options}
        return parse(ChatRequest, data)

    async def _answer(self) -> str:
        from mhsite.cli.context import owner_actor
        from router import services

        actor = await _in_thread(owner_actor)
        if self._out.as_json:
            result = await services.chat_complete(actor=actor, request=self._request())
            self._out.result(result)
            return str(result["content"])
        return await _print_stream(services.chat(actor=actor, request=self._request()))


async def _in_thread(function: Any) -> Any:
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


async def _print_stream(events: "AsyncIterator[ChatEvent]") -> str:
    """Print the answer as it comes; what the model thinks goes to standard error, dimmed."""
    answer = ""
    async for event in events:
        if event["type"] == "token":
            answer += event["content"]
            _write(event["content"])
        elif event["type"] == "reasoning":
            typer.secho(event["content"], err=True, nl=False, dim=True)
        elif event["type"] == "queued":
            typer.echo(f"waiting: {event['reason']}", err=True)
        elif event["type"] == "error":
            _end_line(answer)
            typer.echo(f"mh: {event['error']['message']}", err=True)
            not_running = event["error"]["code"] == "backend_not_running"
            raise typer.Exit(_NOT_RUNNING_STATUS if not_running else 1)
    _end_line(answer)
    return answer


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _end_line(answer: str) -> None:
    if answer and not answer.endswith("\n"):
        _write("\n")
