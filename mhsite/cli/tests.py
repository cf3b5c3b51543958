"""The test runs behind `mh test`, and what they need of the machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import typer

from accounts.errors import Unavailable
from mhsite.home import REPOSITORY

#: pytest found nothing to run: no failure of a run that selects by marker.
NOTHING_COLLECTED: Final = 5
#: Parts of whole sites are killed; they take turns on three of them, and whoever is free takes the next case.
FAULTS: Final = ("-n", "3", "--dist", "worksteal", "-m", "faults")
#: What a usual run takes of the tests that repeat something many times.
FEWER: Final[dict[str, str]] = {"MH_TEST_SWITCHES": "10", "MH_TEST_VLLM_SWITCHES": "1"}
#: By file: those that share a running site share its one start, too.
UNIT: Final = ("-n", "2", "--dist", "loadfile", "-m")
#: These wait for processes more than they compute.
PROCESSES: Final = ("-n", "3", "--dist", "loadfile", "-m")
_ENDS: Final = "not engine and not browser and not faults"
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


def run_tests(arguments: Sequence[str], *, quiet: bool) -> dict[str, int]:
    """Install what is missing, run pytest, and return the exit status of each run.

    Args:
        arguments: for one pytest run instead of all; ``-m faults`` alone is run as among all.
        quiet: send pytest's output to standard error.
    """
    _require_pytest()
    if tuple(arguments) == FAULTS[-2:]:
        return {"faults": _pytest(FAULTS, quiet=quiet)}
    if arguments:
        return {"pytest": _pytest(arguments, quiet=quiet)}
    results = {"install": _install(quiet=quiet)}
    results["unit"] = _pytest((*UNIT, f"{_ENDS} and not process"), quiet=quiet)
    results["processes"] = _pytest((*PROCESSES, f"{_ENDS} and process"), quiet=quiet)
    # A sample of the kills and of the switches; all of them: mh test -m faults.
    results["faults"] = _pytest(
        (*FAULTS[:-1], "faults and not thorough and not engine"), quiet=quiet, **FEWER
    )
    ends = _pytest(("-m", "engine or browser"), quiet=quiet, **FEWER)
    results["end to end"] = 0 if ends == NOTHING_COLLECTED else ends
    return results


def _require_pytest() -> None:
    from importlib.util import find_spec

    if find_spec("pytest") is None:
        raise Unavailable("The test tools are not installed. Run it as: ./bin/mh test")


def _pytest(arguments: Sequence[str], *, quiet: bool, **defaults: str) -> int:
    """Run pytest; ``defaults`` are environment variables where the caller has not set them."""
    command = [sys.executable, "-m", "pytest", "--durations=15", *arguments]
    output = sys.stderr if quiet else None
    environment = {**defaults, **os.environ}
    # Each run and each of its workers would compile every test anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.call(command, cwd=REPOSITORY, stdout=output, env=environment)


def _install(*, quiet: bool) -> int:
    """Install Chromium, vLLM and the demo model; each is needed by marked tests only."""
    if not any(shutil.which(name) for name in CHROMIUM):
        _install_chromium()
    command = [sys.executable, "-m", "mhsite.cli", "vllm", "install"]
    return subprocess.call(command, cwd=REPOSITORY, stdout=sys.stderr if quiet else None)


def _install_chromium() -> None:
    apt_get = shutil.which("apt-get")
    if os.geteuid() != 0 or apt_get is None:
        typer.echo(
            "The browser tests need Chromium, and it can be installed only by root on Debian or "
            "Ubuntu: apt-get install chromium. They are going to fail.",
            err=True,
        )
        return
    typer.echo("Installing Chromium for the browser tests…", err=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            [apt_get, "--quiet", *command], env=environment, capture_output=True, check=False
        )
        if done.returncode != 0:
            typer.echo(done.stderr.decode(errors="replace")[-2000:], err=True)
            return
