"""Find the ``ollama`` to run, and its version, without starting a server."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from backends.engines.base import Detection
from backends.errors import EngineNotInstalled

#: Names the ``ollama`` to run; goes before everything else.
BINARY_VARIABLE: Final = "MH_OLLAMA_BIN"
#: Where its installer, distributions and people put it, where ``PATH`` does not lead.
USUAL_PLACES: Final = (
    "/usr/local/bin/ollama",
    "/usr/bin/ollama",
    "/opt/ollama/bin/ollama",
    "/opt/ollama/ollama",
    "/snap/bin/ollama",
    "/home/linuxbrew/.linuxbrew/bin/ollama",
    "~/.local/bin/ollama",
    "~/ollama/bin/ollama",
)
_VERSION_TIMEOUT: Final = 5.0
#: With a server running it prints that one's version first, and its own only where they differ.
_OWN_VERSION = re.compile(r"client version is v?(\d[\w.+-]*)")
_ANY_VERSION = re.compile(r"version is v?(\d[\w.+-]*)")


def find() -> Path:
    """Return the ``ollama`` to run: ``MH_OLLAMA_BIN``, else on ``PATH``, else in the usual places.

    Raises:
        EngineNotInstalled: there is none; the message says what to do.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        return _named(Path(named).expanduser())
    found = shutil.which("ollama") or next(filter(_is_program, _usual_places()), None)
    if found is None:
        msg = (
            "Ollama is not installed on this machine. Install it from ollama.com/download, or name its "
            f"program in {BINARY_VARIABLE}."
        )
        raise EngineNotInstalled(msg)
    return Path(found)


def looked_for() -> tuple[str, ...]:
    """Return where ``find`` looks, in words."""
    named = os.environ.get(BINARY_VARIABLE)
    return (
        f"{BINARY_VARIABLE} in the environment: {named or 'not set'}",
        f"the command ollama on PATH: {shutil.which('ollama') or 'not there'}",
        *_usual_places(),
    )


def _named(binary: Path) -> Path:
    if not binary.is_file():
        raise EngineNotInstalled(f"{BINARY_VARIABLE} names {binary}, which does not exist.")
    if not _is_program(str(binary)):
        raise EngineNotInstalled(f"{BINARY_VARIABLE} names {binary}, which cannot be run.")
    return binary.absolute()


def _usual_places() -> list[str]:
    return [str(Path(place).expanduser()) for place in USUAL_PLACES]


def _is_program(path: str) -> bool:
    return Path(path).is_file() and os.access(path, os.X_OK)


def detect() -> Detection:
    """Say what is installed, or why nothing is."""
    try:
        binary = find()
    except EngineNotInstalled as error:
        return Detection(installed=False, reason=error.message)
    facts = binary.stat()
    try:
        version = _version(binary, facts.st_mtime_ns, facts.st_size)
    except subprocess.TimeoutExpired:  # a busy machine: asked again next time
        version = ""
    except OSError:
        version = None
    if version is None:
        msg = f"{binary} does not run on this machine. Install Ollama again."
        return Detection(installed=False, path=str(binary), reason=msg)
    return Detection(installed=True, version=version, path=str(binary))


@functools.lru_cache(maxsize=8)
def _version(binary: Path, changed: int, size: int) -> str | None:  # noqa: ARG001 — part of the key
    """Ask a binary once for its version; empty if it does not say, None if it does not run.

    Raises ``OSError`` and ``TimeoutExpired``. ``--version`` asks the server at ``OLLAMA_HOST`` too: one is named where none can be.
    """
    environment = {"PATH": os.defpath, "HOME": str(Path.home()), "OLLAMA_HOST": "127.0.0.1:1"}
    answer = subprocess.run(
        [str(binary), "--version"],
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=_VERSION_TIMEOUT,
        check=False,
    )
    text = (answer.stdout + answer.stderr).decode(errors="replace")
    found = _OWN_VERSION.search(text) or _ANY_VERSION.search(text)
    return found[1] if found else ("" if answer.returncode == 0 else None)
