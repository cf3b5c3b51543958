"""The checks behind `mh check`: each a command whose exit status is its verdict."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import typer

from mhsite.cli.output import Output
from mhsite.home import REPOSITORY

#: What `check --deploy` is run under: settings for a machine that others reach.
PRODUCTION: Final = {
    "MH_HTTPS": "1",
    "MH_DEBUG": "0",
    "MH_ALLOWED_HOSTS": "mh.example.org",
    "MH_CSRF_TRUSTED_ORIGINS": "https://mh.example.org",
}
CODE: Final = ("mhsite", "router", "backends", "audit", "accounts", "tests", "benchmarks", "bin/mh")


@dataclass(frozen=True, slots=True)
class Check:
    """One command."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """How one check ended."""

    name: str
    good: bool
    seconds: float
    output: str


def checks() -> list[Check]:
    """Return every check, those that take longest first."""
    python = sys.executable
    tools = Path(python).parent
    manage = (python, "manage.py")
    code = tuple(path for path in CODE if (REPOSITORY / path).exists())
    schema = (*manage, "spectacular", "--validate", "--fail-on-warn", "--file", os.devnull)
    docs = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_docs.py")
    return [
        Check("types (mypy --strict)", (str(tools / "mypy"),)),
        Check("docs", docs),
        Check("OpenAPI", schema),
        Check(
            "deployment (check --deploy)",
            (*manage, "check", "--deploy", "--fail-level", "WARNING"),
            PRODUCTION,
        ),
        Check("migrations", (*manage, "makemigrations", "--check", "--dry-run")),
        Check("imports (import-linter)", (str(tools / "lint-imports"), "--no-cache")),
        Check("lint (ruff)", (str(tools / "ruff"), "check", *code)),
        Check("format (ruff)", (str(tools / "ruff"), "format", "--check", *code)),
    ]


def run_checks(*, show: bool) -> list[Result]:
    """Run the checks, some at once; print a line for each as it ends, with its output if it failed."""
    _require_tools()
    out = Output(as_json=not show)
    with (
        tempfile.TemporaryDirectory(prefix="mh-check-") as scratch,
        ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool,
    ):
        running = [pool.submit(_run, check, scratch) for check in checks()]
        results = []
        for done in as_completed(running):
            results.append(done.result())
            if show:
                _show(results[-1])
    bad = [result.name for result in results if not result.good]
    out.note(f"\n{len(bad)} of {len(results)} checks failed." if bad else "\nAll checks passed.")
    return results


def _require_tools() -> None:
    from accounts.errors import Unavailable

    if not (Path(sys.executable).parent / "mypy").exists():
        raise Unavailable("The developer tools are not installed. Run it as: ./bin/mh check")


def _run(check: Check, scratch: str) -> Result:
    began = time.monotonic()
    environment = {**os.environ, "MH_HOME": scratch, "DATABASE_URL": "", "REDIS_URL": ""}
    environment |= check.environment
    ended = subprocess.run(
        check.command,
        cwd=REPOSITORY,
        env={key: value for key, value in environment.items() if value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    output = (ended.stdout + ended.stderr).strip()
    return Result(check.name, ended.returncode == 0, time.monotonic() - began, output)


def _show(result: Result) -> None:
    mark, colour = ("✓", "green") if result.good else ("✗", "red")
    typer.echo(f"{typer.style(mark, fg=colour)} {result.name}  {result.seconds:.1f} s")
    if not result.good:
        typer.echo("\n".join(f"    {line}" for line in result.output.splitlines()))
