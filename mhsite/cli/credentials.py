"""Secrets for commands: from the environment, a prompt that shows nothing, or standard input; never from arguments."""

import getpass
import json
import os
import sys
from collections.abc import Sequence

import typer

#: Longest thing read from standard input, in characters.
_MOST = 64 * 1024


def secrets_read(names: Sequence[str], environment: Sequence[str]) -> dict[str, str]:
    """Return the secrets called ``names``, as far as they are given; empty ones are left out.

    Args:
        names: what is asked for.
        environment: where the caller named variables: ``VARIABLE``, or ``SETTING=VARIABLE``.

    Raises:
        BadParameter: a variable is not set, or what standard input holds cannot be read so.
    """
    if environment:
        found = dict(_from_environment(names, given) for given in environment)
    elif not names:
        found = {}
    elif sys.stdin is not None and sys.stdin.isatty():
        found = {name: getpass.getpass(f"{name} (not shown; empty for none): ") for name in names}
    else:
        found = _from_input(names)
    return {name: value for name, value in found.items() if value}


def _from_environment(names: Sequence[str], given: str) -> tuple[str, str]:
    setting, named, variable = given.rpartition("=")
    if not named and len(names) == 1:
        setting = names[0]
    if setting not in names:
        msg = f"say which of its secrets it is: SETTING=VARIABLE. There are: {', '.join(names) or 'none'}"
        raise typer.BadParameter(msg, param_hint="--env")
    value = os.environ.get(variable)
    if not value:
        msg = f"the environment has no variable {variable!r}"
        raise typer.BadParameter(msg, param_hint="--env")
    return setting, value


def _from_input(names: Sequence[str]) -> dict[str, str]:
    text = (sys.stdin.read(_MOST) if sys.stdin is not None else "").strip()
    if not text.startswith("{"):
        if len(names) > 1 and text:
            msg = f"standard input must be a JSON object with {', '.join(names)}"
            raise typer.BadParameter(msg)
        return {names[0]: text}
    try:
        found = json.loads(text)
    except ValueError:
        msg = "standard input begins as a JSON object and is none"
        raise typer.BadParameter(msg) from None
    if not all(name in names and isinstance(value, str) for name, value in found.items()):
        msg = f"standard input must be a JSON object of texts by the names {', '.join(names)}"
        raise typer.BadParameter(msg)
    return dict(found)
