"""The test runs behind `mh test`, and what they need of the machine."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import typer

from accounts.errors import Unavailable
from mhsite.cli import postgresql
from mhsite.home import REPOSITORY

#: pytest found nothing to run: no failure of a run that selects by marker.
NOTHING_COLLECTED: Final = 5
#: What a usual run takes of the tests that repeat something many times.
FEWER: Final[dict[str, str]] = {"MH_TEST_SWITCHES": "10", "MH_TEST_VLLM_SWITCHES": "1"}
TESTS: Final = REPOSITORY / "tests"
E2E: Final = "tests/e2e"
FAULTS: Final = "tests/backends/faults"
_ENDS: Final = "not engine and not browser and not faults"
_UNIT: Final = (f"--ignore={E2E}", f"--ignore={FAULTS}")


@dataclass(frozen=True, slots=True)
class Part:
    """Tests that run together: those of some markers, by so many workers."""

    name: str
    markers: str
    workers: int = 0
    #: How the workers share them: ``loadfile``, ``loadgroup`` (by test, but for marked groups), ``worksteal``.
    share: str = "loadfile"
    #: Marker that each of its files spells out: only those are read, which takes a worker seconds each.
    spelt: str = ""
    more: tuple[str, ...] = ()
    #: Whether they run on a PostgreSQL server of their own, which is what ``tests/isolation.py`` has them use.
    on_postgresql: bool = False

    def arguments(self) -> tuple[str, ...]:
        """Return what pytest is called with; empty where no file has such tests."""
        files = _files(self.spelt) if self.spelt else ()
        if self.spelt and not files:
            return ()
        workers = ("-n", str(self.workers), "--dist", self.share) if self.workers else ()
        return (*workers, "-m", self.markers, *self.more, *files)


#: In this order. Tests of processes wait more than they compute: three workers for two cores.
PARTS: Final = (
    Part("unit", f"{_ENDS} and not process", 2, more=_UNIT),
    # Those that use a database, again: SQL that only one of the two understands is written easily.
    Part(
        "postgresql", f"{_ENDS} and not process and not sqlite", 2, more=_UNIT, on_postgresql=True
    ),
    Part("processes", f"{_ENDS} and process", 3, "loadgroup", spelt="process"),
    # A sample of the kills and of the switches; all of them: mh test -m faults.
    Part("faults", "faults and not thorough and not engine", 3, "worksteal", more=(FAULTS,)),
    Part("browser", "browser and not engine", 2, spelt="browser"),
    # Real vLLM takes both cores for itself.
    Part("engine", "engine", spelt="engine"),
)
#: ``mh test -m faults``: parts of whole sites are killed; whoever is free takes the next case.
ALL_FAULTS: Final = ("-n", "3", "--dist", "worksteal", "-m", "faults")
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")


def run_tests(arguments: Sequence[str], *, quiet: bool) -> dict[str, int]:
    """Install what is missing, run pytest, and return the exit status of each run.

    Args:
        arguments: for one pytest run instead of all; ``-m faults`` alone is run as among all.
        quiet: send pytest's output to standard error.
    """
    _require_pytest()
    if tuple(arguments) == ALL_FAULTS[-2:]:
        return {"faults": _pytest(ALL_FAULTS, quiet=quiet)}
    if arguments:
        return {"pytest": _pytest(arguments, quiet=quiet)}
    return _run_all(quiet=quiet)


def _run_all(*, quiet: bool) -> dict[str, int]:
    began = time.monotonic()
    results = {"install": _install(quiet=quiet)}
    lines = [_line("install", time.monotonic() - began)]
    for part in PARTS:
        began = time.monotonic()
        status = _run(part, quiet=quiet)
        results[part.name] = 0 if status == NOTHING_COLLECTED else status
        lines.append(_line(part.name, time.monotonic() - began, failed=bool(results[part.name])))
    typer.echo("\nSeconds of each part:\n" + "\n".join(lines), err=quiet)
    return results


def _run(part: Part, *, quiet: bool) -> int:
    arguments = part.arguments()
    if not arguments:
        return NOTHING_COLLECTED
    try:
        with _database(part) as database:
            return _pytest(arguments, quiet=quiet, **FEWER, **database)
    except Unavailable as exc:
        typer.echo(f"The tests of {part.name} cannot run: {exc}", err=True)
        return 1


@contextmanager
def _database(part: Part) -> Iterator[dict[str, str]]:
    """Yield the environment that names the database of a part's tests; where it has none, SQLite serves."""
    if not part.on_postgresql:
        yield {}
        return
    with postgresql.server() as url:
        yield {"MH_TEST_DATABASE_URL": url}


def _line(name: str, seconds: float, *, failed: bool = False) -> str:
    return f"{seconds:6.0f}  {name}{' (failed)' if failed else ''}"


def _files(marker: str) -> tuple[str, ...]:
    """Return the test files that spell a marker out; a test without its file fails (tests/conftest.py)."""
    return tuple(
        str(path.relative_to(REPOSITORY))
        for path in sorted(TESTS.rglob("test_*.py"))
        if f"mark.{marker}" in path.read_text()
    )


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
    """Install Chromium, PostgreSQL, vLLM and the demo model; each is needed by some tests only."""
    if not any(shutil.which(name) for name in CHROMIUM):
        _install_package("chromium", "The browser tests need Chromium")
    if postgresql.programs() is None:
        _install_package("postgresql", "The tests on PostgreSQL need a server of it")
    command = [sys.executable, "-m", "mhsite.cli", "vllm", "install"]
    return subprocess.call(command, cwd=REPOSITORY, stdout=sys.stderr if quiet else None)


def _install_package(package: str, why: str) -> None:
    apt_get = shutil.which("apt-get")
    if os.geteuid() != 0 or apt_get is None:
        typer.echo(
            f"{why}, and it can be installed only by root on Debian or Ubuntu: "
            f"apt-get install {package}. They are going to fail.",
            err=True,
        )
        return
    typer.echo(f"{why}; installing it…", err=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        done = subprocess.run(
            [apt_get, "--quiet", *command], env=environment, capture_output=True, check=False
        )
        if done.returncode != 0:
            typer.echo(done.stderr.decode(errors="replace")[-2000:], err=True)
            return
