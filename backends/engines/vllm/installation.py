"""Find the vLLM to run, by looking at files only: importing vLLM takes ten seconds."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backends.engines.base import Detection
from backends.engines.vllm import install, places
from backends.engines.vllm.places import Build

#: Names a Python that has vLLM; goes before everything else.
PYTHON_VARIABLE: Final = "MH_VLLM_PYTHON"
_DISTRIBUTION = re.compile(r"(?P<name>vllm(?:_cpu\w*)?)-(?P<version>\d[^-]*)\.(?:dist|egg)-info")
_PACKAGES: Final = ("lib", "lib64", "local/lib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A Python that has vLLM."""

    python: Path
    #: Without a local part: ``0.32.0``.
    version: str
    build: Build


class NotFoundError(Exception):
    """No vLLM; the message says why, for a person."""


def find() -> Installation:
    """Return the vLLM to run; raises ``NotFoundError``.

    ``MH_VLLM_PYTHON``, else what ``mh vllm install`` made, else the one whose ``vllm`` command is on
    ``PATH``.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return _named(Path(named).expanduser())
    for build in (places.build_for_this_machine(), "cuda", "cpu"):
        folder = places.engine_folder(build)
        found = inspect(folder / "bin" / "python") if places.is_complete(folder) else None
        if found is not None:
            return found
    found = _on_path()
    if found is None:
        raise NotFoundError("vLLM is not installed on this machine. Run: mh vllm install")
    return found


def looked_for() -> tuple[str, ...]:
    """Return where ``find`` looks, in words."""
    named = os.environ.get(PYTHON_VARIABLE)
    return (
        f"{PYTHON_VARIABLE} in the environment: {named or 'not set'}",
        f"what mh vllm install makes: {places.engines_folder()}/vllm-…",
        f"the command vllm on PATH: {shutil.which('vllm') or 'not there'}",
    )


def _named(python: Path) -> Installation:
    if not python.is_file():
        raise NotFoundError(f"{PYTHON_VARIABLE} names {python}, which does not exist.")
    found = inspect(python)
    if found is None:
        raise NotFoundError(f"{PYTHON_VARIABLE} names {python}, which has no vLLM.")
    return found


def inspect(python: Path) -> Installation | None:
    """Read the version of vLLM that ``python`` would import; None if it has none."""
    if not os.access(python, os.X_OK):
        return None
    names = list(_distributions(python.parent.parent))
    if not names:
        return None
    cpu = any(name != "vllm" or "+cpu" in version for name, version in names)
    version = names[0][1].partition("+")[0]
    return Installation(python=python, version=version, build="cpu" if cpu else "cuda")


def _distributions(prefix: Path) -> Iterator[tuple[str, str]]:
    """Yield name and version of every vLLM distribution under a Python's prefix."""
    for base in _PACKAGES:
        for packages in (prefix / base).glob("python3*/*-packages"):
            for info in packages.glob("vllm*-info"):
                match = _DISTRIBUTION.fullmatch(info.name)
                if match:
                    yield match["name"], match["version"]


def _on_path() -> Installation | None:
    """Follow the first line of the ``vllm`` command on ``PATH`` to its Python."""
    command = shutil.which("vllm")
    if command is None:
        return None
    with contextlib.suppress(OSError), Path(command).open("rb") as script:
        first = script.readline(1024).decode(errors="replace").strip()
        if first.startswith("#!/"):
            return inspect(Path(first.removeprefix("#!").split()[0]))
    return None


def detect() -> Detection:
    """Say what is installed, or why nothing is, or how far an installation is."""
    running = install.installing()
    installing = running[0] if running else None
    try:
        found = find()
    except NotFoundError as error:
        return Detection(installed=False, reason=_why_not(str(error)), installing=installing)
    return Detection(
        installed=True, version=found.version, path=str(found.python), installing=installing
    )


def _why_not(reason: str) -> str:
    running = install.installing()
    if running is None:
        return reason
    fraction, message = running
    return f"vLLM is being installed: {message}, {fraction:.0%}."
