"""``mh backend detect``, ``auto`` and ``startup``: what there is, and which of it is to be active."""

from typing import TYPE_CHECKING

from mhsite.cli.context import owner_actor, site_ready
from mhsite.cli.operations import perform
from mhsite.cli.output import Output

if TYPE_CHECKING:
    from backends.payloads import DetectedPayload


def detect(out: Output) -> None:
    """Say what is installed and what answers, seen by the site's observer or else by looking now."""
    site_ready()
    from django.conf import settings

    from backends import bus, foreign, selectors

    servers = None if bus.snapshot_read(settings.MH_NODE) else foreign.find_all()
    found = selectors.detect(servers)
    rows = [
        (name, *_words(row), row["version"], row["model"] or "", row["endpoint"], _remark(row))
        for name, row in found.items()
    ]
    columns = ("backend", "installed", "running", "version", "model", "endpoint", "remark")
    out.table(found, columns, rows, empty="No engine plugins.")


def _words(row: "DetectedPayload") -> tuple[str, str]:
    installed = "yes" if row["installed"] else "no"
    if row["installing"] is not None:
        installed = f"{row['installing']:.0%}"
    return installed, "yes" if row["running"] else "no"


def _remark(row: "DetectedPayload") -> str:
    who = [f"pid {row['pid']}"] if row["pid"] else []
    who += [f"user {row['user']}"] if row["user"] else []
    who += [f"service {row['unit']}"] if row["unit"] else []
    if who:
        started = f"started by somebody else ({', '.join(who)})"
        return f"{started}. {row['reason']}".removesuffix(". ")
    return row["reason"] or row["path"]


def auto(out: Output) -> None:
    """Have the backend that the rule picks be the active one."""
    site_ready()
    from backends import selectors, services, watching

    if not selectors.worker_alive():
        watching.take_up_all()
    payload = perform(services.backend_auto, out, actor=owner_actor())
    found = selectors.status()["available"][payload["backend"]]
    out.result(
        payload, f"{found['title']} is the active backend: {found['model']} at {found['endpoint']}"
    )


def startup(behavior: str | None, auto_start: dict[str, bool], out: Output) -> None:
    """Say what happens when the site comes up, after changing what is asked for."""
    site_ready()
    from backends import selectors, services

    if behavior is not None or auto_start:
        services.startup_set(actor=owner_actor(), behavior=behavior, auto_start=auto_start)
    current = selectors.startup()
    started = ", ".join(name for name, on in current["auto_start"].items() if on) or "none"
    out.result(
        current,
        f"Behaviour: {current['behavior']}",
        f"Active backend: {current['active'] or 'none'}",
        f"Started by themselves: {started}",
    )
