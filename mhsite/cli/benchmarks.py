"""`mh bench`: the modules of ``benchmarks/``, each run as a program of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from accounts.errors import NotFound, UpstreamFailed
from mhsite.home import REPOSITORY

FOLDER: Final = REPOSITORY / "benchmarks"


def names() -> list[str]:
    """Return the benchmarks there are."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def run_benchmarks(
    name: str | None, arguments: Sequence[str] = (), *, quiet: bool
) -> dict[str, Any]:
    """Run one benchmark, with its own arguments, or all; return what they wrote under ``benchmarks/results/``.

    Raises:
        NotFound: there is none of this name.
        UpstreamFailed: one did not end well.
    """
    if name is not None and name not in names():
        raise NotFound(f"There is no benchmark {name!r}. There are: {', '.join(names())}.")
    return {each: _run(each, arguments, quiet=quiet) for each in ([name] if name else names())}


def _run(name: str, arguments: Sequence[str], *, quiet: bool) -> Any:
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments]
    status = subprocess.call(command, cwd=REPOSITORY, stdout=sys.stderr if quiet else None)
    if status != 0:
        raise UpstreamFailed(f"The benchmark {name} failed.", code="benchmark_failed")
    return json.loads(result_path(name).read_text())


def result_path(name: str) -> Path:
    """Return where a benchmark writes its last result; ``MH_BENCH_RESULTS`` names another folder."""
    folder = os.environ.get("MH_BENCH_RESULTS")
    return (Path(folder) if folder else FOLDER / "results") / f"{name}.json"
