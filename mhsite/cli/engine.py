"""What the commands of every engine have in common."""

import json
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import typer

from accounts.errors import MhError
from backends.errors import InvalidOptions
from mhsite.cli.context import owner_actor, site_ready
from mhsite.cli.operations import perform
from mhsite.cli.output import Output, print_error, size

if TYPE_CHECKING:
    from backends.payloads import AvailablePayload, OperationPayload, StatusPayload

NOT_RUNNING: Final = 3
FOLLOW_SECONDS: Final = 0.3


def start(name: str, model: str | None, options: dict[str, Any], out: Output) -> None:
    """Start an engine and say where it answers."""
    site_ready()
    from backends import services

    perform(
        services.backend_start, out, actor=owner_actor(), name=name, model=model, options=options
    )
    _say_running(name, out)


def restart(name: str, out: Output) -> None:
    """Stop an engine and start it again."""
    site_ready()
    from backends import services

    perform(services.backend_restart, out, actor=owner_actor(), name=name)
    _say_running(name, out)


def change_model(name: str, model: str, out: Output) -> None:
    """Have an engine serve another model; one that does not run is told for its next start."""
    site_ready()
    from backends import services

    payload = perform(
        services.backend_change_model, out, actor=owner_actor(), name=name, model=model
    )
    if payload["steps"][-1]["name"] == "configure":
        out.result(payload, payload["steps"][-1]["message"])
        return
    _say_running(name, out)


def stop(name: str, out: Output) -> None:
    """Stop an engine."""
    site_ready()
    from backends import services

    payload = perform(services.backend_stop, out, actor=owner_actor(), name=name)
    title = _available(name)[1]["title"]
    out.result(payload, f"{title} is stopped.")


def switch(name: str, model: str | None, out: Output) -> None:
    """Move the GPU to another engine, in the words CONTRACT.md fixes."""
    site_ready()
    from backends import services

    told = _SwitchTold(name, model)
    payload = perform(
        services.backend_switch, out, told, actor=owner_actor(), name=name, model=model
    )
    out.result(payload, f"Backend switched to {name}")


class _SwitchTold:
    """Says each stage of a switch once, when it has come."""

    def __init__(self, name: str, model: str | None) -> None:
        from backends import selectors

        backend = selectors.backend_get(name)
        self._said: set[str] = set()
        self._title = selectors.backend_engine(backend).title
        options = selectors.backend_options(backend)
        self._model = model or getattr(options, "model", "its model")
        self._runs = selectors.backend_is_running(backend)

    def __call__(self, payload: "OperationPayload") -> None:
        begun = {step["name"] for step in payload["steps"]}
        old = payload["from_backend"]
        if not begun:  # what it moves away from is settled by its first step
            return
        if old or not self._runs:
            origin = f" from {old}" if old else ""
            self._say(f"Switching backend{origin} to {payload['backend']}...")
        if old and "release" in begun:
            self._say(f"Stopping {self._title_of(old)}...")
        if "start" in begun and (old or not self._runs):
            self._say(f"Starting {self._title} with {self._model}...")
        if old and "rollback" in begun:
            self._say(f"Going back to {self._title_of(old)}...")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            typer.echo(line)

    @staticmethod
    def _title_of(name: str) -> str:
        from backends import selectors

        return selectors.backend_engine(selectors.backend_get(name)).title


def _say_running(name: str, out: Output) -> None:
    whole, mine = _available(name)
    line = f"{mine['title']} is running: {mine['model']} at {mine['endpoint']}"
    out.result({"backend": name, **mine, "gpus": whole["gpus"]}, line)


def _available(name: str) -> "tuple[StatusPayload, AvailablePayload]":
    from backends import selectors

    selectors.backend_get(name)
    whole = selectors.status()
    return whole, whole["available"][name]


def status(name: str, out: Output) -> None:
    """Say how an engine is; exit status 3 when it does not run."""
    site_ready()
    whole, mine = _available(name)
    lines = [f"{mine['title']} Status: {_state_words(mine)}"]
    if mine["running"]:
        lines += [f"Endpoint: {mine['endpoint']}", f"Model: {mine['model']}"]
    lines += [f"GPU Memory: {gpu_memory(whole['gpus'], name)}"]
    if mine["standby"]:
        lines += [f"Standby: {mine['standby']['state']}, {size(mine['standby']['memory'])}"]
    lines += [f"Reason: {why}"] if (why := mine["failure"] or mine["reason"]) else []
    out.result({"backend": name, **mine, "gpus": whole["gpus"]}, *lines)
    if not mine["running"]:
        raise typer.Exit(NOT_RUNNING)


def _state_words(mine: "AvailablePayload") -> str:
    if mine["installing"] is not None:
        return f"Installing ({mine['installing']:.0%})"
    if not mine["installed"] and not mine["running"]:
        return "Not installed"
    return "Running" if mine["state"] == "ready" else mine["state"].capitalize()


def gpu_memory(gpus: Iterable[dict[str, Any]], backend: str) -> str:
    """Return used and total memory of the GPUs ``backend`` is on, or of all where it is on none."""
    every = list(gpus)
    if not every:
        return "no GPU"
    mine = [gpu for gpu in every if any(p["backend"] == backend for p in gpu["processes"])] or every
    if any(gpu["memory_used"] is None or gpu["memory_total"] is None for gpu in mine):
        return "unknown: the driver does not say"
    used = sum(gpu["memory_used"] for gpu in mine)
    total = sum(gpu["memory_total"] for gpu in mine)
    return f"{size(used)} / {size(total)} ({used / total:.0%})" if total else size(used)


def logs(name: str, lines: int, *, follow: bool, start: str, out: Output) -> None:
    """Print the end of an engine's log, and with ``follow`` what is written from then on."""
    site_ready()
    from backends import selectors

    shown = selectors.backend_log(name, lines, start=start)
    out.result({"backend": name, "lines": shown}, *shown)
    if follow and not out.as_json:
        _follow_log(name)


def starts(name: str, out: Output) -> None:
    """Print the starts of an engine whose logs are kept."""
    site_ready()
    from backends import selectors

    found = selectors.backend_starts(name)
    rows = [
        (row["id"], "running" if row["running"] else row["ended"], size(row["size_bytes"]))
        for row in found
    ]
    payload = {"backend": name, "starts": found}
    out.table(payload, ("start", "state", "log"), rows, empty="It was not started yet.")


def _follow_log(name: str) -> None:
    """Print new lines until Ctrl-C, through rotation and restarts of the engine."""
    from backends import selectors, supervisor
    from mhsite.processes.console import Tail

    tail: Tail | None = None
    while True:
        backend = selectors.backend_get(name)
        instance = selectors.backend_instance(backend)
        path = supervisor.log_path(instance) if instance else None
        if path is not None and (tail is None or tail.path != path):
            tail = Tail(name, path, from_end=tail is None)
        for line in tail.lines() if tail else ():
            typer.echo(selectors.mask(line, backend))
        time.sleep(FOLLOW_SECONDS)


def config(
    name: str, key: str | None, value: str | None, out: Output, *, apply: bool = False
) -> None:
    """Show the options of an engine, show one, or set one; with ``apply`` what runs gets them."""
    site_ready()
    from backends import selectors, services

    if key is not None:
        named = selectors.backend_engine(selectors.backend_get(name)).Options
        (key,) = named.own_names({key: None})
    if key is not None and value is not None:
        services.backend_configure(
            actor=owner_actor(), name=name, options={key: option_value(value)}
        )
    if apply and selectors.backend_is_running(selectors.backend_get(name)):
        perform(services.backend_apply, out, actor=owner_actor(), name=name)
    current = selectors.backend_config(selectors.backend_get(name))
    shown = {**current["options"], **{k: _set(v) for k, v in current["secrets"].items()}}
    if key is None:
        rows = [(option, _as_text(setting)) for option, setting in shown.items()]
        out.table(current, ("option", "value"), rows, empty="This engine has no options.")
        return
    if key not in shown:
        known = ", ".join(sorted(shown))
        raise InvalidOptions(f"There is no option {key!r}. Options are: {known}.", param=key)
    out.result({key: shown[key]}, _as_text(shown[key]))


def _set(is_set: object) -> str:
    return "(set)" if is_set else "(not set)"


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def option_value(text: str) -> Any:
    """Return what a person typed as an option's value: JSON where it is that, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def option_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` words as options.

    Raises:
        typer.BadParameter: a word has no ``=``.
    """
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not equals or not key:
            raise typer.BadParameter(f"write KEY=VALUE, not {key!r}", param_hint="--option")
    return {key: option_value(value) for key, _, value in split}


def install(name: str, out: Output) -> None:
    """Install an engine, with its progress shown; an interrupted one is taken up again."""
    site_ready()
    from audit.models import Category, Level, Outcome
    from audit.services import event_record
    from backends.engines.registry import engine
    from mhsite.cli.progress import install_report

    actor, plugin = owner_actor(), engine(name)

    def record(event: str, message: str = "", *, failed: bool = False) -> None:
        event_record(
            actor=actor,
            event=f"engine.{event}",
            category=Category.BACKEND,
            level=Level.ERROR if failed else Level.INFO,
            outcome=Outcome.FAILURE if failed else Outcome.SUCCESS,
            target_type="engine",
            target_id=name,
            message=message,
        )

    record("install_started")
    try:
        with install_report(out) as report:
            plugin.install(report)
    except KeyboardInterrupt:
        record("install_interrupted", failed=True)
        out.note("Interrupted. Run the same command again to go on.")
        raise typer.Exit(130) from None
    except MhError as exc:
        # Whatever its code says elsewhere: here something failed, so the exit status is 1.
        record("install_failed", exc.message, failed=True)
        print_error(exc.body(""), as_json=out.as_json)
        raise typer.Exit(1) from exc
    found = plugin.detect()
    record("installed", found.version)
    payload = {"backend": name, "installed": found.installed, "version": found.version}
    out.result(payload, f"{plugin.title} {found.version} is installed.")
    sys.stdout.flush()
