"""The ``mh`` command: one module per group of commands. All of it calls the services the site calls.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not running or not installed. With ``--json`` standard
output holds one JSON object, also when something fails: ``{"error": {…}}``.

Django is set up by the commands that need it, so that ``mh --help`` is fast.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from accounts.errors import Invalid, MhError
from mhsite.cli import (
    audit,
    backend,
    chat,
    config,
    develop,
    model,
    ollama,
    provider,
    role,
    site,
    token,
    usage,
    vllm,
)
from mhsite.cli.output import print_error

app = typer.Typer(
    name="mh",
    help="A switchboard for the LLM engines on your own GPU machine.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
site.register(app)
chat.register(app)
usage.register(app)
develop.register(app)
app.add_typer(backend.app, name="backend")
app.add_typer(vllm.app, name="vllm")
app.add_typer(ollama.app, name="ollama")
app.add_typer(role.app, name="role")
app.add_typer(model.app, name="model")
app.add_typer(provider.app, name="provider")
app.add_typer(token.app, name="token")
app.add_typer(config.app, name="config")
app.add_typer(audit.app, name="audit")

#: Errors that mean: nothing is broken, it just is not there.
NOT_THERE = frozenset({"backend_not_running", "engine_not_installed", "site_not_running"})
_FAILED, _USAGE, _NOT_THERE, _INTERRUPTED = 1, 2, 3, 130


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    as_json = "--json" in arguments
    try:
        # Typer explains wrong usage by itself, but not as JSON.
        status = app(args=list(arguments), prog_name="mh", standalone_mode=not as_json)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else _FAILED
    except BrokenPipeError:
        # Whoever read our output has gone (`mh audit tail | head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MhError as exc:
        print_error(exc.body(""), detail=getattr(exc, "detail", ""), as_json=as_json)
        return _NOT_THERE if exc.code in NOT_THERE else _FAILED
    except Exception as exc:  # noqa: BLE001 - the outermost boundary: a sentence, never a traceback
        return _unexpected(exc, as_json=as_json)
    return status if isinstance(status, int) else 0


def _told(exc: Exception) -> MhError | None:
    """Return what to say where a setting is wrong, or a service that settings name is away."""
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    if isinstance(exc, ImproperlyConfigured):
        return Invalid(str(exc))
    if not settings.configured:
        return None
    from mhsite.outages import outage

    return outage(exc)


def _unexpected(exc: Exception, *, as_json: bool) -> int:
    """Say what happened; wrong usage arrives here too, under ``--json``."""
    if os.environ.get("MH_DEBUG") == "1":
        raise exc
    if told := _told(exc):
        print_error(told.body(""), as_json=as_json)
        return _FAILED
    usage = getattr(exc, "exit_code", None) == _USAGE
    said = getattr(exc, "format_message", lambda: "")
    message = str(said()) if usage else f"{type(exc).__name__}: {exc}"
    code, kind = ("usage", "invalid_request_error") if usage else ("internal_error", "server_error")
    hint = "" if usage else " (a fault in mh; MH_DEBUG=1 shows where)"
    print_error(
        {"message": message + hint, "type": kind, "code": code, "param": None, "request_id": ""},
        as_json=as_json,
    )
    return _USAGE if usage else _FAILED
