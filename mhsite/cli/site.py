"""``mh up``, ``down``, ``status``, ``doctor``, ``version``."""

import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import typer

from accounts.errors import Unavailable
from mhsite.cli.output import Json, Output

if TYPE_CHECKING:
    from mhsite.processes.lock import RunningSite

#: Seconds that `mh down` waits: engines may take a minute to drain and stop.
DOWN_SECONDS: Final = 150.0


class SiteNotRunning(Unavailable):
    """No `mh up` runs on this ``MH_HOME``."""

    code = "site_not_running"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, down, status, doctor, version):
        app.command()(command)


def up(*, as_json: Json = False) -> None:
    """Run the site here until Ctrl-C: broker, worker, observer, web server.

    Migrates, makes the owner account at first boot, and installs vLLM for CPU with a demo model where
    there is neither engine nor GPU (MH_DEMO=0 skips that).
    """
    from mhsite.cli.context import django_ready
    from mhsite.processes.up import up as site_up

    django_ready()
    site_up(sys.stderr if as_json else sys.stdout)
    Output(as_json=as_json).result({"stopped": True})


def down(*, as_json: Json = False) -> None:
    """Stop the site that `mh up` runs, and wait until it is gone."""
    import os
    import signal

    site = _running()
    out = Output(as_json=as_json)
    out.note(f"Stopping the site at {site.url} (pid {site.pid})…")
    os.kill(site.pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while site.is_alive():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The site (pid {site.pid}) has not stopped in {DOWN_SECONDS:.0f} s; mh down again "
                "hurries it.",
                code="site_not_stopped",
            )
        time.sleep(0.05)
    out.result({"stopped": True, "pid": site.pid}, "The site is stopped.")


def _running() -> "RunningSite":
    from mhsite.processes.lock import running_site

    site = running_site()
    if site is None:
        raise SiteNotRunning("The site is not running. Start it with: mh up")
    return site


def status(*, as_json: Json = False) -> None:
    """Show the site, the active backend and the GPUs. Exit status 3 when the site is not running."""
    from mhsite.cli import engine
    from mhsite.cli.context import site_ready
    from mhsite.processes.lock import running_site

    site_ready()
    from backends import selectors

    site, whole = running_site(), selectors.status()
    lines = [f"Site: running at {site.url} (pid {site.pid})" if site else "Site: not running"]
    if site and not whole["worker"]:
        lines.append("Worker: not running")
    for name, row in whole["available"].items():
        words = row["state"] if row["installed"] or row["running"] else "not installed"
        model = f" {row['model']} at {row['endpoint']}" if row["running"] else ""
        why = row["failure"] or ("" if row["running"] else row["reason"])
        lines.append(f"{name}: {words}{model}" + (f" ({why})" if why else ""))
    if whole["operation"]:
        lines.append(f"Operation: {whole['operation']['kind']} {whole['operation']['backend']}")
    lines.append(f"GPU Memory: {engine.gpu_memory(whole['gpus'], '')}")
    running = {"url": site.url, "pid": site.pid} if site else None
    Output(as_json=as_json).result({"site": running, **whole}, *lines)
    if site is None:
        raise typer.Exit(engine.NOT_RUNNING)


def doctor(*, as_json: Json = False) -> None:
    """Check what the site needs of this machine. Exit status 1 when something is wrong."""
    from mhsite.cli.context import site_ready

    site_ready()
    from mhsite.cli.diagnosis import findings

    found = findings()
    lines = [f"{'✓' if f.good else '✗'} {f.subject}: {f.message}" for f in found]
    payload = [{"subject": f.subject, "good": f.good, "message": f.message} for f in found]
    Output(as_json=as_json).result({"findings": payload}, *lines)
    if not all(f.good for f in found):
        raise typer.Exit(1)


def version(*, as_json: Json = False) -> None:
    """Show the versions of mh, Python and Django."""
    import platform

    found: dict[str, Any] = {
        "mh": _own_version(),
        "python": platform.python_version(),
        "django": metadata.version("django"),
    }
    line = f"mh {found['mh']} (Python {found['python']}, Django {found['django']})"
    Output(as_json=as_json).result(found, line)


def _own_version() -> str:
    import tomllib

    from mhsite.home import REPOSITORY

    try:
        return metadata.version("mh")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was not installed.
        return str(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"])
